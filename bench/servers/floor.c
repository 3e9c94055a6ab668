/* The loop of the floor in C: one frame to each of so many sockets. */

#include <stddef.h>
#include <sys/socket.h>

/* Returns how many sockets took the whole of it. */
long send_to_each(const int *sockets, long count, const void *frame, size_t size)
{
    long whole = 0;
    for (long each = 0; each < count; each++)
        whole += send(sockets[each], frame, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
    return whole;
}
