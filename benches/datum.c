/* datum.c - the programs of the datum benchmark: start cost and little else.
   build: gcc -O2 -static -o datum datum.c
   datum map             inside a step: reads $in (/pfs/in/D/F), writes it in upper case with its byte sum to /pfs/out/D/F
   datum map IN OUT      the same outside, for other build tools
   datum reduce [DIR OUT]  adds up the byte sums of DIR/D/F (default /pfs/map) into OUT (default /pfs/out/total) */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static char b[1 << 20];
static int map(const char *in, const char *out) {
  int f = open(in, O_RDONLY); if (f < 0) { perror(in); return 1; }
  long n = read(f, b, sizeof b - 64); close(f); unsigned long s = 0;
  for (long k = 0; k < n; k++) { s += (unsigned char)b[k]; b[k] = toupper((unsigned char)b[k]); }
  n += sprintf(b + n, "\n%lu\n", s);
  f = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0644); if (f < 0) { perror(out); return 1; }
  long w = write(f, b, n); close(f); return w != n;
}
static int reduce(const char *dir, const char *out) {
  char p[4096]; unsigned long total = 0, files = 0; DIR *d = opendir(dir); struct dirent *e, *g;
  if (!d) { perror(dir); return 1; }
  while ((e = readdir(d))) if (e->d_name[0] != '.') {
    snprintf(p, sizeof p, "%s/%s", dir, e->d_name); DIR *c = opendir(p); if (!c) continue;
    while ((g = readdir(c))) if (g->d_name[0] != '.') {
      snprintf(p, sizeof p, "%s/%s/%s", dir, e->d_name, g->d_name);
      int f = open(p, O_RDONLY); if (f < 0) { perror(p); return 1; }
      long n = read(f, b, sizeof b - 1); close(f); if (n < 2) continue; b[n - 1] = 0;
      char *line = strrchr(b, '\n'); total += strtoul(line ? line + 1 : b, 0, 10); files++;
    }
    closedir(c);
  }
  closedir(d); FILE *o = fopen(out, "w"); if (!o) { perror(out); return 1; }
  fprintf(o, "%lu %lu\n", files, total); return fclose(o) != 0;
}
int main(int c, char **v) {
  if (c == 4 && !strcmp(v[1], "map")) return map(v[2], v[3]);
  if (c == 4 && !strcmp(v[1], "reduce")) return reduce(v[2], v[3]);
  if (c == 2 && !strcmp(v[1], "reduce")) return reduce("/pfs/map", "/pfs/out/total");
  const char *in = getenv("in"); if (c != 2 || strcmp(v[1], "map") || !in) return 2;
  char out[4096]; snprintf(out, sizeof out, "/pfs/out/%s", in + strlen("/pfs/in/"));
  char *slash = strrchr(out, '/'); *slash = 0; mkdir(out, 0755); *slash = '/';
  return map(in, out);
}
