/* What the kernel alone takes to start /bin/true in a sandbox: clone into namespaces, mount, pivot_root, execve.
   build: cc -O2 -static -o w6_floor w6_floor.c
   w6_floor ROOTFS COUNT FLAGS COMMAND...   prints the median of the microseconds of each start
   FLAGS: letters m(ount) p(id) i(pc) u(ts) n(et) o(verlay over ROOTFS); `-`: plain starts, `@` in an argument becomes
   a number no other start has. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static const char *rootfs, *flags;
static char **command, base[64];

static void must(int done, const char *what) {
  if (done < 0) {
    perror(what);
    _exit(9);
  }
}

static int inside(void *unused) {
  const char *root = rootfs;
  char options[4096];
  (void)unused;
  must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private");
  if (strchr(flags, 'o')) {
    /* Two lower layers and nothing to write to, as a step's root is. */
    snprintf(options, sizeof options, "lowerdir=%s/skeleton:%s", base, rootfs);
    must(mount("overlay", base, "overlay", MS_RDONLY, options), "overlay");
    root = base;
  } else {
    must(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL), "bind");
  }
  must(chdir(root), "chdir");
  must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
  must(umount2(".", MNT_DETACH), "umount");
  must(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "proc");
  execv(command[0], command);
  perror(command[0]);
  return 127;
}

static pid_t start(int number, int clone_flags) {
  static char stack[1 << 16] __attribute__((aligned(16)));
  static char texts[32][256];
  char *arguments[33] = {0};
  pid_t pid = -1;
  if (strcmp(flags, "-"))
    return clone(inside, stack + sizeof stack, clone_flags, NULL);
  for (int i = 0; command[i] && i < 32; i++) {
    char *at = strchr(command[i], '@');
    arguments[i] = command[i];
    if (at) {
      snprintf(texts[i], sizeof texts[i], "%.*s%d-%d%s", (int)(at - command[i]), command[i], getpid(), number, at + 1);
      arguments[i] = texts[i];
    }
  }
  return posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ) ? -1 : pid;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int count, char **words) {
  if (count < 5)
    return 2;
  rootfs = words[1], flags = words[3], command = words + 4;
  int starts = atoi(words[2]), bad = 0, status;
  double *took = calloc(starts, sizeof *took);
  int clone_flags = SIGCHLD | CLONE_NEWNS;
  if (strchr(flags, 'p')) clone_flags |= CLONE_NEWPID;
  if (strchr(flags, 'i')) clone_flags |= CLONE_NEWIPC;
  if (strchr(flags, 'u')) clone_flags |= CLONE_NEWUTS;
  if (strchr(flags, 'n')) clone_flags |= CLONE_NEWNET;
  snprintf(base, sizeof base, "/tmp/w6-floor-%d", getpid());
  mkdir(base, 0755);
  char skeleton[80];
  snprintf(skeleton, sizeof skeleton, "%s/skeleton", base);
  mkdir(skeleton, 0755);
  for (int i = 0; i < starts; i++) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    pid_t pid = start(i, clone_flags);
    must(pid, "start");
    must(waitpid(pid, &status, 0), "wait");
    clock_gettime(CLOCK_MONOTONIC, &end);
    bad += status != 0;
    took[i] = (end.tv_sec - begin.tv_sec) * 1e6 + (end.tv_nsec - begin.tv_nsec) / 1e3;
  }
  rmdir(skeleton);
  rmdir(base);
  qsort(took, starts, sizeof *took, ascending);
  printf("%.0f\n", took[starts / 2]);
  if (bad) fprintf(stderr, "%d of %d starts failed\n", bad, starts);
  return bad != 0;
}
