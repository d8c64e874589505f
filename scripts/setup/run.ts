// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { createInterface } from 'node:readline'
import { finished } from 'node:stream/promises'

const TAIL_LINES = 15

/** What went wrong in set-up, told so that the reader knows what to do next. */
export class SetupError extends Error {
  override readonly name = 'SetupError'
}

export interface RunOptions {
  /** What the command is for, in the words of the error message. */
  step: string
  /** File that receives everything the command prints. */
  log: string
  cwd?: string
  env?: NodeJS.ProcessEnv
  signal?: AbortSignal | undefined
  /** Called with each line of output. */
  onLine?: (line: string) => void
  /** Stay in the terminal's session, so that sudo can ask for a password there. */
  interactive?: boolean
  /** On abort it is told to end and waited for: killed, it would leave the system's packages half installed. */
  mayFinish?: boolean
}

/** A command that is told to end has so long until it is killed, ms: all of set-up has two seconds. */
const PATIENCE_MS = 1_000

/**
 * Runs a command to its end and returns what it printed on stdout.
 * Throws a SetupError that names step, command and log if it fails; ends it with all its children on abort.
 */
export async function run(command: string, args: string[], options: RunOptions): Promise<string> {
  options.signal?.throwIfAborted()
  await mkdir(dirname(options.log), { recursive: true })
  const log = createWriteStream(options.log, { flags: 'a' })
  const logged = finished(log)
  logged.catch(() => {}) // is thrown where it is awaited
  const commandLine = [command, ...args].join(' ')
  log.write(`\n$ ${commandLine}\n`)

  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: 'C.UTF-8', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: !options.interactive,
  })
  let late: NodeJS.Timeout | undefined
  const kill = () => {
    const end = (signal: NodeJS.Signals) => killTree(child.pid, !options.interactive, signal)
    end('SIGTERM')
    if (!options.mayFinish) late = setTimeout(() => end('SIGKILL'), PATIENCE_MS)
  }
  options.signal?.addEventListener('abort', kill)

  const output: string[] = []
  createInterface({ input: child.stdout }).on('line', line => {
    output.push(line)
    options.onLine?.(line)
  })
  child.stdout.pipe(log, { end: false })
  child.stderr.pipe(log, { end: false })
  try {
    const outcome = await new Promise<string | undefined>(resolve => {
      child.on('error', error => resolve(`cannot run it: ${error.message}`))
      child.on('close', (code, signal) =>
        resolve(code === 0 ? undefined : signal ? `killed by ${signal}` : `exit code ${code}`),
      )
    })
    options.signal?.throwIfAborted()
    log.end()
    await logged
    if (outcome !== undefined) throw await failure(commandLine, outcome, options)
    return output.join('\n')
  } finally {
    clearTimeout(late)
    options.signal?.removeEventListener('abort', kill)
    log.destroy()
  }
}

function killTree(pid: number | undefined, ownGroup: boolean, signal: NodeJS.Signals): void {
  if (pid === undefined) return
  try {
    process.kill(ownGroup ? -pid : pid, signal)
  } catch {
    // It ended by itself, or it is sudo, which takes Ctrl-C from the terminal and nothing from us.
  }
}

async function failure(commandLine: string, outcome: string, { step, log }: RunOptions): Promise<SetupError> {
  const text = await readFile(log, 'utf8')
  const ours = text.slice(text.lastIndexOf(`\n$ ${commandLine}\n`))
  const tail = ours.trimEnd().split('\n').slice(2).slice(-TAIL_LINES)
  return new SetupError(
    [
      `${step} failed (${outcome})${hint(ours)}`,
      `  command: ${commandLine}`,
      `  log:     ${log}`,
      ...tail.map(line => `  | ${line}`),
    ].join('\n'),
  )
}

const COMMON_REASONS: [RegExp, string][] = [
  [/No space left on device|ENOSPC/, 'the disk is full'],
  [
    /Temporary failure resolving|Could not (resolve|connect)|Unable to connect|Connection timed out|Network is unreachable/,
    'the package mirror cannot be reached',
  ],
  [/404 +Not Found/, 'the package mirror lists it, and does not have it (any more)'],
  [/NO_PUBKEY|signatures? (were|was|is|couldn't be) /, 'the package signatures do not check out'],
  [/a terminal is required|a password is required/, 'sudo needs a password and has no terminal to ask'],
]

/** The reason in plain words, where the output of a failed command shows a common one. */
function hint(output: string): string {
  const reason = COMMON_REASONS.find(([pattern]) => pattern.test(output))
  return reason ? `: ${reason[1]}` : ''
}
