// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { Report } from '../../server/run/runReport.ts'

const MAIN = fileURLToPath(new URL('../../server/cli/main.ts', import.meta.url))

/** What a run of the command line left: exit code, both outputs, and the report if there is one. */
export interface Run {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  readonly report: Report | undefined
  /** What a failed expectation shows: standard error, and the last lines of the guest. */
  readonly said: string
  readonly pid: number
}

export interface RunOptions {
  /** Called with everything printed so far on standard output whenever there is more. */
  readonly onOutput?: (text: string, child: ChildProcess) => void
  /** The same for standard error. */
  readonly onErrors?: (text: string, child: ChildProcess) => void
  /** Where it is started; default: here. */
  readonly cwd?: string
  /** Default: ours. */
  readonly env?: NodeJS.ProcessEnv
  /** The run is killed after so long; the test then fails on the exit code. */
  readonly deadlineMs?: number
}

/** Runs `smmu-cosim ARGS`, with `--report` for `boot`. */
export async function cosim(args: readonly string[], options: RunOptions = {}): Promise<Run> {
  const folder = privateFolder(tmpdir(), 'cli-')
  const reportFile = join(folder, 'report.json')
  const all = args[0] === 'boot' ? ['boot', '--report', reportFile, ...args.slice(1)] : args
  const child = spawn(process.execPath, [MAIN, ...all], {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.cwd !== undefined && { cwd: options.cwd }),
    ...(options.env !== undefined && { env: options.env }),
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('latin1').on('data', text => {
    stdout += text
    options.onOutput?.(stdout, child)
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
    options.onErrors?.(stderr, child)
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), options.deadlineMs ?? 200_000)
  const code = await new Promise<number | null>(resolve => child.once('close', resolve))
  clearTimeout(timer)
  let report: Report | undefined
  try {
    report = JSON.parse(readFileSync(reportFile, 'utf8')) as Report
  } catch {}
  rmSync(folder, { recursive: true })
  const said = `${stderr}\n${stdout.split('\n').slice(-80).join('\n')}`
  return { code, stdout, stderr, report, said, pid: child.pid ?? 0 }
}

/** Whatever the run with this process id left behind: folders of sockets and RAM, and processes that name them. */
export function leftovers(pid: number): string[] {
  const mark = `smmu-cosim.${pid}-`
  const files = [tmpdir(), '/dev/shm'].flatMap(parent =>
    readdirSync(parent)
      .filter(name => name.startsWith(mark))
      .map(name => join(parent, name)),
  )
  const processes = readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(name => {
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(mark)
      } catch {
        return false
      }
    })
    .map(name => `process ${name}`)
  return [...files, ...processes]
}
