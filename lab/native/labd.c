/* labd runs in every lab guest: answers commands on one virtio-serial port, reports what was written on another,
 * and heeds the power button. Frames on the control port (little endian):
 *   u32 magic, u32 id, u16 kind (1 request, 2 answer), u16 status, u32 length, then the text. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/input.h>
#include "block.h"
#include "labd.h"

#define FRAME_MAGIC 0x31434642u /* "BFC1" */

struct frame {
    uint32_t magic, id;
    uint16_t kind, status;
    uint32_t length;
};
struct request {
    struct frame head;
    char *text;
};

static int control_fd;
static pthread_mutex_t answering = PTHREAD_MUTEX_INITIALIZER;

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void say(struct text *out, const char *format, ...)
{
    va_list args;
    char line[1024];
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n >= (int)sizeof line)
        n = sizeof line - 1;
    if (out->length + (size_t)n + 1 > out->room) {
        out->room = (out->length + (size_t)n + 1) * 2;
        out->data = realloc(out->data, out->room);
    }
    memcpy(out->data + out->length, line, (size_t)n + 1);
    out->length += (size_t)n;
}

int64_t option(const char *args, const char *name, int64_t otherwise)
{
    size_t n = strlen(name);
    for (const char *p = args; (p = strstr(p, name)); p += n)
        if ((p == args || p[-1] == ' ') && p[n] == '=')
            return (int64_t)strtoull(p + n + 1, NULL, 0);
    return otherwise;
}

static int shell(char *args, struct text *out)
{
    char *script = strchr(args, '\n');
    long limit = strtol(args, NULL, 10);
    int pipes[2], status;
    if (!script || pipe2(pipes, O_CLOEXEC) < 0)
        return EINVAL;
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        int null = open("/dev/null", O_RDONLY);
        dup2(null, 0);
        dup2(pipes[1], 1);
        dup2(pipes[1], 2);
        execl("/bin/sh", "sh", "-c", script + 1, NULL);
        _exit(127);
    }
    close(pipes[1]);
    uint64_t deadline = now_ns() + (uint64_t)limit * 1000000000ull;
    struct pollfd watch = {.fd = pipes[0], .events = POLLIN};
    int late = 0;
    for (;;) {
        char part[1000];
        if (now_ns() > deadline) {
            kill(-child, SIGKILL);
            late = 1;
            break;
        }
        if (poll(&watch, 1, 200) <= 0)
            continue;
        ssize_t n = read(pipes[0], part, sizeof part - 1);
        if (n <= 0)
            break;
        part[n] = 0;
        say(out, "%s", part);
    }
    close(pipes[0]);
    waitpid(child, &status, 0);
    if (late)
        say(out, "\n(killed after %ld s)", limit);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void leave(int how)
{
    struct text ignored = {0};
    db_stop(&ignored);
    judge_stop(&ignored);
    umount("/db");
    sync();
    usleep(100000); /* let the last records and the answer out */
    reboot(how);
}

static int perform(char *text, struct text *out)
{
    char *args = strpbrk(text, " \n");
    if (args)
        *args++ = 0;
    else
        args = text + strlen(text);
    if (!strcmp(text, "ping"))
        return say(out, "%.3f", (double)now_ns() / 1e9), 0;
    if (!strcmp(text, "sh"))
        return shell(args, out);
    if (!strcmp(text, "disk"))
        return judge_define(args, out);
    if (!strcmp(text, "start"))
        return judge_start(args, out);
    if (!strcmp(text, "stop"))
        return judge_stop(out);
    if (!strcmp(text, "verify"))
        return judge_verify(out);
    if (!strcmp(text, "status"))
        return judge_status(out);
    if (!strcmp(text, "mark")) {
        struct record r = {.type = REC_MARK, .sequence = strtoull(args, NULL, 0)};
        ledger_put(&r);
        return 0;
    }
    if (!strcmp(text, "beacon"))
        return beacon_start(args, out);
    if (!strcmp(text, "db-start"))
        return db_start(args, out);
    if (!strcmp(text, "db-stop"))
        return db_stop(out);
    if (!strcmp(text, "db-check"))
        return db_check(out);
    if (!strcmp(text, "poweroff") || !strcmp(text, "reboot"))
        return 0; /* done after the answer is out */
    say(out, "unknown command %s", text);
    return ENOSYS;
}

static void send_all(const void *data, size_t left)
{
    for (const char *p = data; left;) {
        ssize_t n = write(control_fd, p, left);
        if (n > 0) {
            p += n;
            left -= (size_t)n;
        } else if (errno != EINTR) {
            usleep(5000);
        }
    }
}

static void *serve(void *given)
{
    struct request *request = given;
    struct text out = {0};
    char word[16] = "";
    sscanf(request->text, "%15s", word);
    struct frame head = request->head;
    head.kind = 2;
    head.status = (uint16_t)perform(request->text, &out);
    head.length = (uint32_t)out.length;
    pthread_mutex_lock(&answering);
    send_all(&head, sizeof head);
    send_all(out.data, out.length);
    pthread_mutex_unlock(&answering);
    free(out.data);
    free(request->text);
    free(request);
    if (!strcmp(word, "poweroff"))
        leave(RB_POWER_OFF);
    if (!strcmp(word, "reboot"))
        leave(RB_AUTOBOOT);
    return NULL;
}

static int read_all(void *data, size_t left)
{
    for (char *p = data; left;) {
        ssize_t n = read(control_fd, p, left);
        if (n > 0) {
            p += n;
            left -= (size_t)n;
        } else {
            usleep(10000); /* the host's end is not open */
        }
    }
    return 0;
}

static void *power_button(void *unused)
{
    struct pollfd watch[8];
    int n = 0;
    (void)unused;
    for (int i = 0; i < 8; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            watch[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    while (n && poll(watch, (nfds_t)n, -1) >= 0)
        for (int i = 0; i < n; i++) {
            struct input_event event;
            if (watch[i].revents & POLLIN && read(watch[i].fd, &event, sizeof event) == sizeof event &&
                event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
                leave(RB_POWER_OFF);
        }
    return NULL;
}

static void *pulse(void *unused)
{
    (void)unused;
    for (;;) {
        struct record r = {.type = REC_PULSE};
        ledger_put(&r);
        usleep(20000);
    }
    return NULL;
}

int main(void)
{
    pthread_t thread;
    crc_init();
    signal(SIGPIPE, SIG_IGN);
    ledger_open("/dev/lab.judge");
    while ((control_fd = open("/dev/lab.control", O_RDWR | O_CLOEXEC)) < 0)
        usleep(5000);
    struct record boot = {.type = REC_BOOT, .sequence = 1};
    ledger_put(&boot);
    pthread_create(&thread, NULL, power_button, NULL);
    pthread_create(&thread, NULL, pulse, NULL);
    fputs("lab guest is ready\n", stderr);
    for (;;) {
        struct frame head;
        read_all(&head.magic, 4);
        while (head.magic != FRAME_MAGIC) { /* find the next frame after a cut one */
            memmove(&head.magic, (char *)&head.magic + 1, 3);
            read_all((char *)&head.magic + 3, 1);
        }
        read_all((char *)&head + 4, sizeof head - 4);
        if (head.kind != 1 || head.length > 1 << 20)
            continue;
        struct request *request = malloc(sizeof *request);
        request->head = head;
        request->text = calloc(1, head.length + 1);
        read_all(request->text, head.length);
        pthread_create(&thread, NULL, serve, request);
        pthread_detach(thread);
    }
}
