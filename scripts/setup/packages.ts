// SPDX-License-Identifier: Apache-2.0
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { logPath } from './cache.ts'
import { type Context, exclusively } from './lock.ts'
import type { SetupOptions } from './options.ts'
import { type RunOptions, run, SetupError } from './run.ts'

/** What QEMU's build, Debian's source packages and the initramfs need of the system. */
const PACKAGES = [
  'build-essential',
  'dpkg-dev',
  'patch',
  'xz-utils',
  'kmod',
  'ninja-build',
  'pkg-config',
  'python3',
  'python3-venv',
  'python3-distlib',
  'flex',
  'bison',
  'libglib2.0-dev',
  'libfdt-dev',
  'libpixman-1-dev',
  'libslirp-dev',
  'libseccomp-dev',
  'zlib1g-dev',
]

/** What compiles the guest's own programs. */
const CROSS_PACKAGES = ['gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross']

/** The packages for a release of Debian, by the text of its /etc/os-release. */
export function hostPackages(osRelease: string): string[] {
  const isDebian12 = /^ID=debian$/m.test(osRelease) && /^VERSION_ID="?12"?$/m.test(osRelease)
  return [...PACKAGES, isDebian12 ? 'libmsgpack-dev' : 'libmsgpack-c-dev']
}

/** Which of `wanted` the output of `dpkg-query -W -f '${Package} ${db:Status-Status}\n'` does not show as installed. */
export function missingPackages(wanted: string[], dpkgOutput: string): string[] {
  const installed = new Set<string>()
  for (const line of dpkgOutput.split('\n')) {
    const [name = '', status] = line.split(' ')
    if (status === 'installed') installed.add(name)
  }
  return wanted.filter(name => !installed.has(name))
}

/** Installs the system packages that are missing, with sudo if we are not root; does nothing if none is. */
export async function ensureHostPackages(options: SetupOptions = {}): Promise<void> {
  await exclusively(options, installHostPackages)
}

/** The same for a step that has the lock already. */
export async function installHostPackages(context: Context): Promise<void> {
  await install(context, hostPackages(await readFile('/etc/os-release', 'utf8')))
}

/** The cross compiler, for a step that has the lock already. */
export async function installCrossCompiler(context: Context): Promise<void> {
  await install(context, CROSS_PACKAGES)
}

/** Installs the browser that the tests of the dashboard drive, unless CHROMIUM names another one. */
export async function ensureBrowser(options: SetupOptions = {}): Promise<void> {
  if (process.env.CHROMIUM === undefined) await exclusively(options, context => install(context, ['chromium']))
}

/** Installs the debugger that the tests attach to guests. */
export async function ensureDebugger(options: SetupOptions = {}): Promise<void> {
  await exclusively(options, context => install(context, ['gdb-multiarch']))
}

/** Debian has the server in the package of its tools, which starts none; it goes by the name that it is called by. */
export const REDIS = { binary: '/usr/bin/redis-check-rdb', argv0: 'redis-server' } as const

/** Installs the Redis that the tests of a fleet run. */
export async function ensureRedis(options: SetupOptions = {}): Promise<void> {
  await exclusively(options, context => install(context, ['redis-tools']))
}

/** Installs the kubectl by which the tests look at the manifest for Kubernetes, unless there is one: that of another source keeps Debian's out. */
export async function ensureKubectl(options: SetupOptions = {}): Promise<void> {
  const is = await promisify(execFile)('kubectl', ['version', '--client']).then(
    () => true,
    () => false,
  )
  if (!is) await exclusively(options, context => install(context, ['kubernetes-client']))
}

async function install({ progress, signal }: Context, wanted: string[]): Promise<void> {
  const options = { step: 'installing system packages', log: logPath('packages'), signal, mayFinish: true }
  const missing = missingPackages(wanted, await dpkgStates(wanted))
  if (missing.length === 0) return

  await progress.step('packages', `installing ${missing.join(' ')}`, async () => {
    // A broken third-party source fails the update, and need not concern us.
    await aptGetAsRoot(['update'], options).catch(error => {
      if (signal?.aborted) throw error
    })
    await aptGetAsRoot(['install', '-y', '--no-install-recommends', ...missing], options)
  })
}

async function dpkgStates(names: string[]): Promise<string> {
  const query = promisify(execFile)('dpkg-query', ['-W', '-f', `\${Package} \${db:Status-Status}\n`, ...names])
  return query.then(
    ({ stdout }) => stdout,
    // It fails if it has never heard of one of the names, and tells of the others all the same.
    (error: { code?: string | number; stdout: string }) => {
      if (error.code === 'ENOENT') throw new SetupError('dpkg-query does not run here: set-up needs Debian 12 or 13')
      return error.stdout
    },
  )
}

async function aptGetAsRoot(args: string[], options: RunOptions): Promise<void> {
  const isRoot = process.getuid?.() === 0
  const command = ['DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', '-o', 'DPkg::Lock::Timeout=300', ...args]
  try {
    if (isRoot) await run('env', command, options)
    else await run('sudo', ['env', ...command], { ...options, interactive: true })
  } catch (error) {
    if (isRoot || !(error instanceof SetupError)) throw error
    throw new SetupError(`${error.message}\n  As root, run: apt-get ${args.join(' ')}`)
  }
}
