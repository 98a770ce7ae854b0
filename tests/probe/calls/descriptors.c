// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Several descriptors of one socket, and descriptors in the hands of stdio and others.
 */
#include "calls.h"

#include <linux/io_uring.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static int fd;
static struct address peer;

static void start(void)
{
	fd = bound_socket(port);
	peer = peer_open(1);
}

static void hear(const char *text)
{
	peer_text(1, port, text);
}

static void use_copy(const char *label, int copy)
{
	hear(label);
	take(label, copy);
	hear(label);
	take("by the first", fd);
	TRY("send", sendto(copy, label, strlen(label), 0, &peer.any, peer.len));
	peer_take(label, 1);
}

static void descriptors_copies(void)
{
	int copy;

	start();
	use_copy("dup", dup(fd));
	use_copy("dup2", dup2(fd, 50));
	use_copy("dup3", dup3(fd, 51, O_CLOEXEC));
	use_copy("fcntl", fcntl(fd, F_DUPFD, 60));
	use_copy("fcntl cloexec", copy = fcntl(fd, F_DUPFD_CLOEXEC, 61));
	out("flags %d %d", fcntl(51, F_GETFD), fcntl(copy, F_GETFD));
	TRY("itself", dup2(fd, fd) == fd);
	TRY("itself by dup3", dup3(fd, fd, 0));
	TRY("closed", dup2(99, fd));
	TRY("negative", dup2(fd, -1));
	/* What is set at one is set at all. */
	TRY("nonblock", fcntl(fd, F_SETFL, O_NONBLOCK));
	TRY("recv of a copy", recv(copy, &peer, 1, 0));
	TRY("connect", connect(copy, &peer.any, peer.len));
	TRY("send by the first", send(fd, "x", 1, 0));
	peer_take("send", 1);
	TRY("close the first", close(fd));
	hear("closed the first");
	take("copy", copy);
	fd = copy;
	TRY("all closed", close(50) + close(51) + close(60));
	hear("nearly all closed");
	take("copy", copy);
}

static void descriptors_replaced(void)
{
	int pipes[2], before;
	char text[8] = "";

	start();
	hear("lost with its socket");
	settle(fd);
	if (pipe(pipes) < 0 || write(pipes[1], "pipe", 4) != 4)
		fatal("pipe");
	before = fd;
	TRY("replaced by a pipe", dup2(pipes[0], fd) == before);
	TRY("read", read(fd, text, sizeof(text)));
	out("%s", text);
	TRY("recv", recv(fd, text, 1, 0));
	fd = bound_socket(port);
	hear("new one");
	take("new one", fd);
	int other = bound_socket(port + 1);
	TRY("replaced by another socket", dup2(other, fd) == fd);
	peer_text(1, port + 1, "for the other");
	take("by the first's number", fd);
	close(other);
	peer_text(1, port + 1, "again");
	take("by the first's number", fd);
	other = bound_socket(port);
	peer_text(1, port, "port is free");
	take("port is free", other);
}

static void descriptors_standard(void)
{
	char text[32] = "";

	start();
	/* As inetd's children have it. */
	TRY("as input", dup2(fd, 0));
	close(fd);
	fd = 0;
	hear("input");
	settle(0);
	TRY("read", read(0, text, sizeof(text)));
	TRY("connect", connect(0, &peer.any, peer.len));
	FILE *stream = fdopen(dup(0), "r+");
	TRY("fprintf", fprintf(stream, "by stdio"));
	fflush(stream);
	peer_take("stdio", 1);
	hear("line\n");
	TRY("fgets", fgets(text, sizeof(text), stream) != NULL);
	out("%.4s", text);
	TRY("fclose", fclose(stream));
	hear("still");
	take("still", 0);
}

static void descriptors_looked_at(void)
{
	char path[64], link[64] = "";
	struct stat stat;
	socklen_t len = 8;
	unsigned long cookie[2] = {0, 0};

	start();
	TRY("fstat", fstat(fd, &stat));
	out("a socket: %d", S_ISSOCK(stat.st_mode));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (readlink(path, link, sizeof(link) - 1) > 0)
		out("%.8s", link);
	TRY("cookie", getsockopt(fd, SOL_SOCKET, 57, cookie, &len));
	int copy = dup(fd);
	TRY("cookie", getsockopt(copy, SOL_SOCKET, 57, cookie + 1, &len));
	out("the same: %d", cookie[0] == cookie[1] && cookie[0]);
	TRY("isatty", isatty(fd));
	/* The first descriptor that is free is the next one's, as everywhere. */
	close(copy);
	TRY("next is the lowest", dup(0) == copy);
	hear("x");
	take("x", fd);
}

static void descriptors_lowest(void)
{
	int numbers[6];

	numbers[0] = bound_socket(port);
	numbers[1] = udp_socket();
	numbers[2] = bound_socket(port + 1);
	numbers[3] = epoll_create1(0);
	numbers[4] = dup(numbers[0]);
	numbers[5] = bound_socket(port + 2);
	for (int i = 1; i < 6; i++)
		out("step %d", numbers[i] - numbers[i - 1]);
	close(numbers[2]);
	TRY("reused", bound_socket(port + 1) == numbers[2]);
	peer_open(1);
	peer_text(1, port + 1, "x");
	take("x", numbers[2]);
}

static void descriptors_files(void)
{
	int file = memfd_create("file", 0), pipes[2];

	start();
	if (write(file, "from a file", 11) != 11 || pipe(pipes) < 0 ||
	    write(pipes[1], "from a pipe", 11) != 11)
		fatal("write");
	TRY("connect", connect(fd, &peer.any, peer.len));
	off_t offset = 0;
	TRY("sendfile", sendfile(fd, file, &offset, 11));
	peer_take("sendfile", 1);
	TRY("splice", splice(pipes[0], NULL, fd, NULL, 11, 0));
	peer_take("splice", 1);
	hear("still");
	take("still", fd);
}

static void *map_ring(int ring, size_t size, uint64_t what)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);

	if (at == MAP_FAILED)
		fatal("map an io_uring");
	return at;
}

/* What nobody but the kernel sees: the socket is received from by an io_uring. */
static void descriptors_io_uring(void)
{
	struct io_uring_params params = {0};
	char data[64];
	int ring;

	start();
	hear("before");
	take("before", fd);
	ring = syscall(SYS_io_uring_setup, 1, &params);
	if (ring < 0) {
		/* Forbidden here (kernel.io_uring_disabled). */
		TRY("setup", ring);
		return;
	}
	char *sent = map_ring(ring, params.sq_off.array + params.sq_entries * sizeof(uint32_t),
			      IORING_OFF_SQ_RING);
	char *done =
		map_ring(ring, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
			 IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqe =
		map_ring(ring, params.sq_entries * sizeof(*sqe), IORING_OFF_SQES);
	uint32_t *array = (uint32_t *)(sent + params.sq_off.array);
	uint32_t *tail = (uint32_t *)(sent + params.sq_off.tail);
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(done + params.cq_off.cqes);

	hear("by the ring");
	*sqe = (struct io_uring_sqe){
		.opcode = IORING_OP_RECV, .fd = fd, .addr = (uintptr_t)data, .len = sizeof(data)};
	array[0] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	TRY("enter", syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	out("%d %.*s", cqe->res, cqe->res > 0 ? cqe->res : 0, data);
	close(ring);
	hear("after");
	take("after", fd);
}

const struct test descriptor_cases[] = {
	{"descriptors-copies", "46", SETUP, descriptors_copies},
	{"descriptors-replaced", "46", FAST, descriptors_replaced},
	{"descriptors-standard", "46", SETUP, descriptors_standard},
	{"descriptors-looked-at", "46", FAST, descriptors_looked_at},
	{"descriptors-lowest", "46", FAST, descriptors_lowest},
	{"descriptors-files", "46", SETUP, descriptors_files},
	{"descriptors-io-uring", "46", SETUP, descriptors_io_uring},
	{0},
};
