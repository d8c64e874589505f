// SPDX-License-Identifier: Apache-2.0
/*
 * kexec HOW KERNEL INITRAMFS COMMAND_LINE: loads a successor of the running
 * kernel. "kexec" starts it at once; "kdump" leaves that to a panic.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kexec.h>
#include <linux/reboot.h>

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail(path);
	return fd;
}

int main(int argc, char **argv)
{
	unsigned long flags = 0;
	int kernel, initramfs;

	if (argc != 5) {
		fprintf(stderr, "usage: kexec kexec|kdump KERNEL INITRAMFS COMMAND_LINE\n");
		return 2;
	}
	if (strcmp(argv[1], "kdump") == 0)
		flags = KEXEC_FILE_ON_CRASH;
	kernel = open_file(argv[2]);
	initramfs = open_file(argv[3]);
	if (syscall(SYS_kexec_file_load, kernel, initramfs, strlen(argv[4]) + 1, argv[4], flags))
		fail("kexec_file_load");
	if (flags & KEXEC_FILE_ON_CRASH)
		return 0;
	sync();
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	fail("reboot");
}
