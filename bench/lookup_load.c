/* The client and the bare server of bench/socketmap.py.
 *
 * respond PATH: the least that any socketmap server can do. It finds the end of each request that a read brought, and
 * answers all of them in one write, each with the same bytes, from one thread around epoll. No server can do less.
 *
 * ask PATH CONNECTIONS DEPTH SECONDS FILE: CONNECTIONS at once, from one thread around epoll. Each sends DEPTH requests
 * in one write, waits for all their replies, and sends the next. Requests are the lines of FILE, framed already, drawn
 * at random; every reply has to be an OK. It prints the requests answered, the seconds, and p50, p99 and the longest
 * wait in nanoseconds: from the write of a request to the read that brought its reply.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 262144
#define EVENTS 256
#define MAX_CONNECTIONS 4096
#define MAX_DEPTH 256
#define STEP 250           /* nanoseconds: the resolution of a wait */
#define STEPS 4000000      /* up to a second */

struct peer {
    int fd, waiting;       /* replies that are still to come */
    size_t used;           /* of an incomplete netstring at the start of the buffer */
    uint64_t sent_at;
    char *buffer;
};

static const char reply[] = "60:OK secure match=mx.d1.example servername=hostname           ,";
static uint32_t waits[STEPS];

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int die(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_un address(const char *path) {
    struct sockaddr_un to;
    memset(&to, 0, sizeof to);
    to.sun_family = AF_UNIX;
    strncpy(to.sun_path, path, sizeof to.sun_path - 1);
    return to;
}

static void watch(int poll, struct peer *peer) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, peer->fd, &event))
        die("epoll_ctl");
}

/* The octets of the netstring at `text`, framing included; 0 where it is not complete. */
static size_t netstring(const char *text, size_t size) {
    size_t length = 0, at = 0;
    while (at < size && text[at] >= '0' && text[at] <= '9')
        length = length * 10 + (text[at++] - '0');
    if (at == size)
        return 0;
    if (at == 0 || text[at] != ':') {
        fputs("no netstring\n", stderr);
        exit(1);
    }
    return size - at - 1 > length ? at + 1 + length + 1 : 0;
}

static void send_all(int fd, const char *text, size_t size) {
    while (size > 0) {
        ssize_t sent = write(fd, text, size);
        if (sent < 0 && errno != EINTR)
            die("write");
        if (sent > 0)
            text += sent, size -= sent;
    }
}

static void respond(const char *path) {
    static char answer[BUFFER];
    struct sockaddr_un at = address(path);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), poll = epoll_create1(0);
    struct peer self = {.fd = listener};
    struct epoll_event events[EVENTS];
    for (size_t i = 0; i + sizeof reply - 1 <= BUFFER; i += sizeof reply - 1)
        memcpy(answer + i, reply, sizeof reply - 1);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 4096))
        die("listen");
    watch(poll, &self);
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer == &self) {
                struct peer *fresh = calloc(1, sizeof *fresh);
                fresh->fd = accept(listener, NULL, NULL);
                fresh->buffer = malloc(BUFFER);
                watch(poll, fresh);
                continue;
            }
            ssize_t got = read(peer->fd, peer->buffer + peer->used, BUFFER / 8 - peer->used);
            if (got <= 0) {
                close(peer->fd);
                free(peer->buffer);
                free(peer);
                continue;
            }
            size_t size = peer->used + got, start = 0, length, requests = 0;
            while (start < size && (length = netstring(peer->buffer + start, size - start)) > 0)
                start += length, requests++;
            peer->used = size - start;
            memmove(peer->buffer, peer->buffer + start, peer->used);
            send_all(peer->fd, answer, requests * (sizeof reply - 1));
        }
    }
}

static char **read_requests(const char *file, long *count) {
    FILE *in = fopen(file, "r");
    char line[512], **requests = malloc(2000000 * sizeof *requests);
    if (in == NULL)
        die(file);
    for (*count = 0; fgets(line, sizeof line, in) != NULL; (*count)++) {
        line[strcspn(line, "\n")] = 0;
        requests[*count] = strdup(line);
    }
    fclose(in);
    return requests;
}

static void ask_batch(struct peer *peer, int depth, char **requests, long count) {
    static uint64_t seed = 88172645463325252ull;
    static char batch[MAX_DEPTH * 512];
    size_t used = 0;
    for (int i = 0; i < depth; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        const char *request = requests[seed % count];
        size_t size = strlen(request);
        memcpy(batch + used, request, size);
        used += size;
    }
    peer->waiting = depth;
    peer->sent_at = now();
    send_all(peer->fd, batch, used);
}

/* Read, note how long each reply took; whether the peer waits for no more. */
static int take(struct peer *peer, uint64_t *answered) {
    ssize_t got = read(peer->fd, peer->buffer + peer->used, BUFFER - peer->used);
    if (got <= 0)
        die("the server has closed a connection");
    uint64_t step = (now() - peer->sent_at) / STEP;
    size_t size = peer->used + got, start = 0, length;
    while (start < size && (length = netstring(peer->buffer + start, size - start)) > 0) {
        if (strncmp(strchr(peer->buffer + start, ':') + 1, "OK ", 3)) {
            fprintf(stderr, "not OK: %.*s\n", (int)length, peer->buffer + start);
            exit(1);
        }
        start += length;
        peer->waiting--;
        (*answered)++;
        waits[step < STEPS ? step : STEPS - 1]++;
    }
    peer->used = size - start;
    memmove(peer->buffer, peer->buffer + start, peer->used);
    return peer->waiting == 0;
}

static uint64_t quantile(uint64_t answered, double share) {
    uint64_t wanted = answered * share, seen = 0;
    for (long step = 0; step < STEPS; step++)
        if ((seen += waits[step]) > wanted)
            return (uint64_t)step * STEP + STEP / 2;
    return (uint64_t)STEPS * STEP;
}

static int ask(const char *path, int connections, int depth, double seconds, const char *file) {
    static struct peer peers[MAX_CONNECTIONS];
    struct sockaddr_un to = address(path);
    struct epoll_event events[EVENTS];
    int poll = epoll_create1(0), open = connections;
    long count, longest = 0;
    uint64_t answered = 0;
    char **requests = read_requests(file, &count);
    if (connections > MAX_CONNECTIONS || depth > MAX_DEPTH || count == 0)
        return 2;
    for (int i = 0; i < connections; i++) {
        peers[i].fd = socket(AF_UNIX, SOCK_STREAM, 0);
        peers[i].buffer = malloc(BUFFER);
        if (connect(peers[i].fd, (struct sockaddr *)&to, sizeof to))
            die(path);
        watch(poll, &peers[i]);
    }
    uint64_t start = now(), end = start + seconds * 1e9, last = start;
    for (int i = 0; i < connections; i++)
        ask_batch(&peers[i], depth, requests, count);
    while (open > 0) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (!take(peer, &answered))
                continue;
            last = now();
            if (last < end)
                ask_batch(peer, depth, requests, count);
            else
                open--;
        }
    }
    for (long step = 0; step < STEPS; step++)
        if (waits[step])
            longest = step;
    printf("%llu %.6f %llu %llu %llu\n", (unsigned long long)answered, (last - start) / 1e9,
        (unsigned long long)quantile(answered, 0.5), (unsigned long long)quantile(answered, 0.99),
        (unsigned long long)longest * STEP);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "respond"))
        respond(argv[2]);
    if (argc == 7 && !strcmp(argv[1], "ask"))
        return ask(argv[2], atoi(argv[3]), atoi(argv[4]), atof(argv[5]), argv[6]);
    fputs("usage: respond PATH | ask PATH CONNECTIONS DEPTH SECONDS FILE\n", stderr);
    return 2;
}
