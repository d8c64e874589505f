// SPDX-License-Identifier: Apache-2.0
/*
 * The floor: two processes send frames to and fro over a Unix socket.
 *
 *     pingpong COUNT REQUEST_BYTES REPLY_BYTES SPIN_US APART
 *
 * Both sides poll for SPIN_US before they sleep; 0: they sleep at once. APART = 1: each process is bound to a processor
 * of its own; 0: the scheduler decides, and tends to put two that sleep in turn on the same one. Prints the round trips
 * as "p50 p90 p99 max" in ns.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FRAME_MAX 4096
#define WARM_UP 1000

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

/* The first or the last processor that we may use: the same one when there is no other */
static void bind_to(int last)
{
    cpu_set_t all, one;
    int found = -1;

    if (sched_getaffinity(0, sizeof(all), &all) != 0) {
        die("sched_getaffinity");
    }
    for (int i = 0; i < CPU_SETSIZE && (found < 0 || last); i++) {
        if (CPU_ISSET(i, &all)) {
            found = i;
        }
    }
    CPU_ZERO(&one);
    CPU_SET(found, &one);
    if (sched_setaffinity(0, sizeof(one), &one) != 0) {
        die("sched_setaffinity");
    }
}

/* A whole frame; false when the other side has gone */
static int receive(int fd, char *buffer, size_t size, int64_t spin_ns)
{
    int64_t until = spin_ns > 0 ? now_ns() + spin_ns : 0;

    for (size_t done = 0; done < size;) {
        int flags = spin_ns > 0 && now_ns() < until ? MSG_DONTWAIT : 0;
        ssize_t n = recv(fd, buffer + done, size - done, flags);

        if (n == 0) {
            return 0;
        }
        if (n > 0) {
            done += n;
        } else if (errno == EAGAIN) {
            relax();
        } else if (errno != EINTR) {
            die("recv");
        }
    }
    return 1;
}

static void transmit(int fd, const char *buffer, size_t size)
{
    /* A frame is far below the socket's buffer */
    if (send(fd, buffer, size, MSG_NOSIGNAL) != (ssize_t)size) {
        die("send");
    }
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void print(int64_t *times, size_t count)
{
    qsort(times, count, sizeof(*times), ascending);
    printf("%lld %lld %lld %lld\n", (long long)times[count / 2],
           (long long)times[count * 9 / 10], (long long)times[count * 99 / 100],
           (long long)times[count - 1]);
}

int main(int argc, char **argv)
{
    static char buffer[FRAME_MAX];
    long values[5];
    int fds[2];

    if (argc != 6) {
        fprintf(stderr, "usage: pingpong COUNT REQUEST REPLY SPIN_US APART\n");
        return 2;
    }
    for (int i = 0; i < 5; i++) {
        values[i] = atol(argv[i + 1]);
    }
    long count = values[0];
    size_t request = values[1], reply = values[2];
    int64_t spin = values[3] * 1000;
    int apart = values[4] != 0;

    if (count < 1 || request < 1 || request > FRAME_MAX || reply < 1 || reply > FRAME_MAX) {
        fprintf(stderr, "pingpong: out of range\n");
        return 2;
    }
    int64_t *trips = calloc(count, sizeof(*trips));
    if (trips == NULL) {
        die("memory");
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) {
        die("socketpair");
    }
    pid_t parent = getpid();
    pid_t child = fork();
    if (child < 0) {
        die("fork");
    }
    if (child == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) {
            _exit(1);
        }
        close(fds[0]);
        if (apart) {
            bind_to(1);
        }
        while (receive(fds[1], buffer, request, spin)) {
            transmit(fds[1], buffer, reply);
        }
        _exit(0);
    }
    close(fds[1]);
    if (apart) {
        bind_to(0);
    }
    for (long i = -WARM_UP; i < count; i++) {
        int64_t start = now_ns();

        transmit(fds[0], buffer, request);
        if (!receive(fds[0], buffer, reply, spin)) {
            fprintf(stderr, "pingpong: the server ended\n");
            return 1;
        }
        if (i >= 0) {
            trips[i] = now_ns() - start;
        }
    }
    close(fds[0]);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "pingpong: the server failed\n");
        return 1;
    }
    print(trips, count);
    return 0;
}
