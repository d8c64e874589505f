// SPDX-License-Identifier: Apache-2.0
/**
 * The process that serves the API runs under Node's permission model: it and its workers read and write the files that they need,
 * whatever name a request leads to. Programs may be started, as QEMU has to be, and this does not hold them; the network is
 * not held, nor are files that SQLite opens (no request names one), nor is code that means to break out
 * (https://nodejs.org/api/permissions.html). Of native code the trap thread alone may
 * call some, for shared memory (machine/sharedMemory.ts): the other threads give that up before they see a request.
 */
import { mkdirSync, realpathSync } from 'node:fs'
import { url as inspectorUrl } from 'node:inspector'
import { tmpdir } from 'node:os'
import { dirname, resolve } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { cacheDir } from '../../scripts/setup/cache.ts'
import { buildDashboard } from '../api/webBuild.ts'
import { runsFolder } from '../machine/runs.ts'
import { giveUpFfi } from '../machine/sharedMemory.ts'
import { POLICY_NAMES } from '../policy/load.ts'
import { UsageError } from './exit.ts'
import { say } from './terminal.ts'

const ROOT = resolve(fileURLToPath(new URL('../..', import.meta.url)))

/** What set-up and a machine look at besides: the release of the system, Debian's keys, memory and limits. */
const SYSTEM = ['/etc/os-release', '/usr/lib/os-release', '/usr/share/keyrings', '/proc']

/** Files and folders that the command line names. */
export interface Named {
  readonly read: readonly (string | undefined)[]
  /** Folders, with all that is in them. */
  readonly write: readonly (string | undefined)[]
}

/** Node's options for a process that reads and writes no more than this: absolute paths, folders with all that is in them. */
export function permissions(read: readonly string[], write: readonly string[]): string[] {
  return [
    '--permission',
    ...outermost([...read, ...write]).map(path => `--allow-fs-read=${path}`),
    ...outermost(write).map(path => `--allow-fs-write=${path}`),
    '--allow-child-process',
    '--allow-worker',
    '--allow-net',
    '--allow-ffi',
    // Node warns that some of these weaken the others, which is said above, and that --allow-net is new.
    '--disable-warning=ExperimentalWarning',
    '--disable-warning=SecurityWarning',
  ]
}

/** As NODE_OPTIONS takes them: what has spaces or quotes in it stands in quotes. */
export const nodeOptions = (options: readonly string[]): string =>
  options.map(option => (/[\s"\\]/.test(option) ? `"${option.replace(/["\\]/g, '\\$&')}"` : option)).join(' ')

const isIn = (folder: string, path: string): boolean => path.startsWith(`${folder}/`)

/** Without those that lie in others: where one path begins with another one, Node denies the shorter one itself. */
const outermost = (paths: readonly string[]): string[] =>
  [...new Set(paths)].filter(path => !paths.some(other => isIn(other, path)))

/** Two paths that Node cannot grant both, for that reason, though neither lies in the other. */
const clash = (paths: readonly string[]): string[] | undefined => {
  const all = outermost(paths)
  return all.flatMap(path =>
    all.filter(other => other !== path && other.startsWith(path)).map(other => [path, other]),
  )[0]
}

/**
 * Starts the command anew in this process, confined. Returns in the process that is; also where nobody wants it, or a debugger
 * is attached, which would lose it.
 * @throws Error when `signal` was aborted meanwhile: the process that is started anew would not know
 */
export async function confine(sandbox: boolean, named: Named, signal: AbortSignal): Promise<void> {
  // The trap thread looks at memory by its address; the thread that answers requests need not.
  if (process.permission !== undefined) {
    // Node hands its permissions to the programs that it starts, for other Nodes among them, and takes spaces for ends.
    process.env.NODE_OPTIONS = nodeOptions(
      process.execArgv.filter(option => /^--(permission$|allow-|disable-warning=)/.test(option)),
    )
    return giveUpFfi()
  }
  if (!sandbox || inspectorUrl() !== undefined || process.execve === undefined) return
  // The builder of the dashboard is native code, and its place is not written to afterwards.
  await buildDashboard(say)
  const given = (paths: Named['read']) => paths.flatMap(path => (path === undefined ? [] : [resolve(path)]))
  // Only a folder that is there stands for all that is in it.
  for (const path of [cacheDir, runsFolder()]) mkdirSync(path, { recursive: true })
  const write = [cacheDir, runsFolder(), resolve(tmpdir()), ...given(named.write)]
  const read = [ROOT, ...SYSTEM, ...given(named.read)]
  const [path, other] = clash([...read, ...write]) ?? []
  if (path !== undefined)
    throw new UsageError(`Node's permissions cannot tell ${other} from ${path}: name another path, or use --no-sandbox`)
  await setImmediate()
  signal.throwIfAborted()
  // Links on the way to the program are outside of what is granted.
  const [, program = '', ...args] = process.argv
  process.execve(process.execPath, [
    process.execPath,
    ...process.execArgv,
    ...permissions(read, write),
    realpathSync(program),
    ...args,
  ])
}

/** A policy of one's own, which may import what lies beside it; one of ours has a name and no folder. */
export const policyFolder = (policy: string | undefined): string | undefined =>
  policy === undefined || POLICY_NAMES.includes(policy) ? undefined : dirname(resolve(policy))
