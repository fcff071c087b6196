"""What all attempts use: raw system calls, raw HTTP, the search for secrets, and the way an attempt is made and judged."""


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


def prctl(*arguments):
    """Zero, or the error number."""
    return ctypes.get_errno() if LIBC.prctl(*[ctypes.c_ulong(a) for a in arguments]) < 0 else -1
