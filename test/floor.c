// The floor under every container runtime: one process with namespaces, a cgroup and a root file system of its own, in
// bare C, N times. `bench spawn` (internal/bench) makes the same system calls by package spawn. Prints ms each.
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char *const argv_true[] = {"/bin/true", NULL}, *const no_environment[] = {NULL};

static void need(int failed, const char *what) {
	if (failed) {
		perror(what);
		_exit(1);
	}
}

static void make(const char *path) { need(mkdir(path, 0755), path); }

static void put(const char *source, const char *target, const char *kind, unsigned long flags, const char *data) {
	need(mount(source, target, kind, flags, data), target);
}

static void contain(const char *rootfs, const char *dir) {
	char merged[512], options[2048];
	snprintf(merged, sizeof merged, "%s/merged", dir);
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", rootfs, dir, dir);
	put("", "/", "", MS_REC | MS_SLAVE, "");
	put("overlay", merged, "overlay", 0, options);
	need(chdir(merged), merged);
	put("proc", "proc", "proc", 0, "");
	put("tmpfs", "dev", "tmpfs", 0, "size=64k");
	put("sysfs", "sys", "sysfs", 0, "");
	make("dev/pts");
	make("dev/shm");
	make("dev/mqueue");
	put("devpts", "dev/pts", "devpts", 0, "newinstance");
	put("shm", "dev/shm", "tmpfs", 0, "");
	put("mqueue", "dev/mqueue", "mqueue", 0, "");
	need(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	need(umount2(".", MNT_DETACH), "umount");
	need(chdir("/"), "chdir");
	need(sethostname("x", 1), "sethostname");
	execve(argv_true[0], argv_true, no_environment);
	need(1, argv_true[0]);
}

static void one(const char *rootfs, const char *work, const char *cgroup, int i) {
	static const char *const parts[] = {"", "/upper", "/work", "/merged"};
	char dir[256], path[512];
	snprintf(dir, sizeof dir, "%s/%d-%d", work, getpid(), i);
	for (unsigned k = 0; k < sizeof parts / sizeof *parts; k++) {
		snprintf(path, sizeof path, "%s%s", dir, parts[k]);
		make(path);
	}
	snprintf(path, sizeof path, "%s/%d-%d", cgroup, getpid(), i);
	make(path);
	struct clone_args how = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP | CLONE_NEWNET,
		.exit_signal = SIGCHLD,
	};
	pid_t pid = syscall(SYS_clone3, &how, sizeof how);
	need(pid < 0, "clone3");
	if (pid == 0)
		contain(rootfs, dir);
	int status;
	need(waitpid(pid, &status, 0) != pid, "waitpid");
	if (status != 0)
		exit(1);
}

int main(int argc, char **argv) {
	if (argc != 5) {
		fprintf(stderr, "usage: floor ROOTFS WORKDIR CGROUP N\n");
		return 2;
	}
	struct timespec began, ended;
	int n = atoi(argv[4]);
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (int i = 0; i < n; i++)
		one(argv[1], argv[2], argv[3], i);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%.3f\n", ((ended.tv_sec - began.tv_sec) * 1e3 + (ended.tv_nsec - began.tv_nsec) / 1e6) / n);
	return 0;
}
