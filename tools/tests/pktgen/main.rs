//! pktgen on veth pairs between namespaces of the test's own; tcpdump, scapy and the kernel are the judges.
//! Root is needed.

mod bed;
mod frames;
mod hostile;
mod kernel;
mod live;
mod measure;
mod receive;
mod tenant;
