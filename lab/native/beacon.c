/* Tells the network that this guest runs: a datagram to everybody in a fixed rhythm, each with a number of its own.
 * Who hears one number twice has seen two instances of one guest run. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "labd.h"

#define BEACON_MAGIC 0x314e4342u /* "BCN1" */
#define BEACON_PORT 7001

struct datagram {
    uint32_t magic, guest;
    uint64_t run, sequence;
} __attribute__((packed));

static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
static struct datagram next_one = {.magic = BEACON_MAGIC};
static useconds_t pause_us;
static int begun;

static void *beacon(void *unused)
{
    int broadcast = 1, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in all = {.sin_family = AF_INET, .sin_port = htons(BEACON_PORT)};
    (void)unused;
    all.sin_addr.s_addr = htonl(INADDR_BROADCAST);
    setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &broadcast, sizeof broadcast);
    for (;;) {
        pthread_mutex_lock(&changing);
        struct datagram one = next_one;
        next_one.sequence++;
        useconds_t us = pause_us;
        pthread_mutex_unlock(&changing);
        sendto(fd, &one, sizeof one, 0, (struct sockaddr *)&all, sizeof all);
        usleep(us);
    }
    return NULL;
}

int beacon_start(char *args, struct text *out)
{
    pthread_t thread;
    int failed = 0;
    (void)out;
    pthread_mutex_lock(&changing);
    next_one.guest = (uint32_t)option(args, "guest", 0);
    next_one.run = (uint64_t)option(args, "run", 0);
    next_one.sequence = 1;
    pause_us = (useconds_t)option(args, "every_ms", 20) * 1000;
    if (!begun)
        failed = pthread_create(&thread, NULL, beacon, NULL);
    begun = !failed;
    pthread_mutex_unlock(&changing);
    return failed;
}
