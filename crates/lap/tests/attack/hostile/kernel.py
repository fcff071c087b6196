"""Interfaces of the kernel that lead out, and ways around the filter of system calls."""

# The tools bring the standard library along.
from tools import *


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
    if prctl(22, 0, 0, 0, 0) == -1:
        raise Breach('seccomp mode 0')
    if prctl(38, 0, 0, 0, 0) == -1:
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
