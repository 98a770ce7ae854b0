use IO::Socket::INET;
my $socket = IO::Socket::INET->new(LocalPort => 8011, Proto => "udp") or die $!;
while (my $from = $socket->recv(my $data, 2000)) { $socket->send($data, 0, $from); }
