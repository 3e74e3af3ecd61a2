# Adds up the second column for each word in the first.
{ total[$1] += $2 }
END {
    count = 0
    for (fruit in total) names[++count] = fruit
    # Insertion sort, so that the order does not depend on how awk keeps its tables.
    for (i = 2; i <= count; i++)
        for (j = i; j > 1 && names[j] < names[j - 1]; j--) {
            name = names[j]; names[j] = names[j - 1]; names[j - 1] = name
        }
    for (i = 1; i <= count; i++) print names[i], total[names[i]]
}
