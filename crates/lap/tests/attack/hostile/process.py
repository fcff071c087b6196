"""Other processes, other users, the guest and its link."""

# The tools bring the standard library along.
from tools import *


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
    seen = {refused(call('capset', header, every)), refused(-prctl(47, 2, 21, 0, 0))}
    lines = [line for line in open('/proc/self/status') if line.startswith('Cap')]
    if any(int(line.split()[1], 16) for line in lines):
        raise Breach(''.join(lines))
    return ', '.join(sorted(seen)) + '; none held'


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
