/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef AFNET_TAGS_H
#define AFNET_TAGS_H

/*
 * Destination MAC addresses of frames to groups and broadcast on their way to sockets, the first 16
 * bits. (Multicast addresses, locally administered: nobody else's.) 03:af and an ifindex: in the
 * host link, by a worker for that device, or to one from it. 07:af, AFNET_COPY_* and a slot, 16
 * bits each: for the compartments from this slot on.
 */
#define AFNET_MAC_WORKER 943
#define AFNET_MAC_COPY	 1967

#endif
