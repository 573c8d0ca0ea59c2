/* The sender and the bare reader of bench/sessions.py.
 *
 * send PATH COUNT KIND RATE: COUNT datagrams as libtlsrpt writes them, then END. KIND is one of those described there. RATE 0 blocks where the queue is full, so that nothing is lost; otherwise so many are offered a
 * second, and what does not fit is lost, as with libtlsrpt. It says when it is ready, waits for a line on standard
 * input, and at the end prints how many it sent.
 *
 * read PATH: receives until END, prints how many came and its CPU seconds. No reader can do less.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DOMAINS 1000
#define SHAPES 4096

static int open_socket(const char *path, struct sockaddr_un *address) {
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    strncpy(address->sun_path, path, sizeof address->sun_path - 1);
    return fd;
}

/* Seven in ten succeed, two have one failure, one has two; with `content` each has one, at an address of its own. The
 * last key is one that no reader knows. */
static char *make(long number, int unique, int domains, int content) {
    static const int codes[] = {201, 202, 203, 204, 205};
    long shape = number % SHAPES, domain = domains ? number : shape % DOMAINS, kind = shape % 10;
    char details[1024] = "", extra[32] = "";
    char *text = malloc(2048);
    int failures = content ? 1 : kind < 7 ? 0 : kind < 9 ? 1 : 2, used = 0;
    for (int i = 0; i < failures; i++)
        used += snprintf(details + used, sizeof details - used,
            "%s{\"c\":%d,\"s\": \"192.0.2.10\",\"n\": \"mx%ld.d%ld.example\",\"h\": \"250-mx%ld.d%ld.example at your "
            "service\\r\\n250-PIPELINING\\r\\n250-8BITMIME\\r\\n250 STARTTLS\",\"r\": \"198.%ld.%ld.%ld\"}",
            i ? "," : "\"failure-details\":[", content ? codes[number % 5] : i ? 205 : 202, shape % 3, domain, shape % 3,
            domain, content ? 18 + number / 65536 : 51, content ? number / 256 % 256 : shape % 250,
            content ? number % 256 : i);
    if (failures)
        snprintf(details + used, sizeof details - used, "],");
    if (unique)
        snprintf(extra, sizeof extra, ",\"x\":%ld", number);
    snprintf(text, 2048,
        "{\"dpv\": \"1\",\"d\": \"d%ld.example\",\"pr\": \"v=TLSRPTv1; rua=mailto:tls@d%ld.example\",\"policies\":[{"
        "\"policy-type\":2,\"policy-domain\": \"d%ld.example\",\"policy-string\":[\"version: STSv1\",\"mode: enforce\","
        "\"mx: *.d%ld.example\",\"max_age: 86400\"],\"mx-host\":[\"*.d%ld.example\"],%s\"t\":%d,\"f\":%d}]%s}",
        domain, domain, domain, domain, domain, details, failures, failures > 0, extra);
    return text;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int send_all(const char *path, long count, const char *kind, double rate) {
    struct sockaddr_un to;
    int fd = open_socket(path, &to);
    int unique = !strcmp(kind, "differ"), domains = !strcmp(kind, "domains"), content = !strcmp(kind, "content");
    long made = unique || domains || content ? count : SHAPES, sent = 0;
    char **texts = malloc(made * sizeof *texts), line[16];
    size_t *sizes = malloc(made * sizeof *sizes);
    for (long i = 0; i < made; i++) {
        texts[i] = make(i, unique, domains, content);
        sizes[i] = strlen(texts[i]);
    }
    puts("ready");
    fflush(stdout);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) || !fgets(line, sizeof line, stdin))
        return 1;
    double start = now();
    for (long i = 0; i < count; i++) {
        if (rate > 0 && i % 5 == 0) { /* a burst of five, then wait for its time */
            double early = start + i / rate - now();
            if (early > 0) {
                struct timespec pause = {0, early * 1e9};
                nanosleep(&pause, NULL);
            }
        }
        if (send(fd, texts[i % made], sizes[i % made], rate > 0 ? MSG_DONTWAIT : 0) >= 0)
            sent++;
        else if (errno != EAGAIN)
            return 1;
    }
    if (send(fd, "END", 3, 0) < 0)
        return 1;
    printf("%ld\n", sent);
    return 0;
}

static int read_all(const char *path) {
    struct sockaddr_un at;
    static char buffer[262144];
    int fd = open_socket(path, &at);
    long count = 0;
    if (bind(fd, (struct sockaddr *)&at, sizeof at))
        return 1;
    for (;;) {
        ssize_t size = recv(fd, buffer, sizeof buffer, 0);
        if (size == 3 && !memcmp(buffer, "END", 3))
            break;
        count++;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%ld %f\n", count, usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 6 && !strcmp(argv[1], "send"))
        return send_all(argv[2], atol(argv[3]), argv[4], atof(argv[5]));
    if (argc == 3 && !strcmp(argv[1], "read"))
        return read_all(argv[2]);
    return 2;
}
