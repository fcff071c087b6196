"""Ways to the machine's files, and ways to change what is shared."""

# The tools bring the standard library along.
from tools import *


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
