// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kernel path: ordinary sockets of a compartment see and use its addresses only, as if it were
 * alone on a machine.
 *
 *  hook                        attached to            file
 *  sock_create, bind, listen   the instance's cgroup  bind.h   (register of ports: ports.h)
 *  connect, sendmsg            the instance's cgroup  connect.h  (choice of the source: source.h)
 *  getsockname, recvmsg, ...   the instance's cgroup  names.h
 *  cgroup_skb                  the instance's cgroup  packets.h
 *  sk_lookup                   the network namespace  steer.h
 *  tc ingress                  devices, lo            steer.h  (groups, broadcast: group.h)
 *  tc egress                   devices, lo            ping.h
 *  the host's own sockets      the root cgroup        host.h
 *  none: run by afnetd         nothing                membership.h
 *
 * A socket's compartment is that of the process that made it, for good: where the socket or the
 * process goes later changes nothing. It is kept in the socket's storage.
 */
#include "host.h"
#include "membership.h"
#include "steer.h"
#include "ping.h"
#include "packets.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
