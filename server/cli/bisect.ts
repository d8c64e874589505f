// SPDX-License-Identifier: Apache-2.0
/**
 * `replay --bisect GOOD..BAD`: at which commit a policy began to decide a recording differently. git bisect chooses the commits, in a
 * worktree of its own, so that neither the user's files nor a bisection of his own are touched. The policy and all it imports by
 * relative paths are those of the commit; replay is this one.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { policyPath } from '../policy/load.ts'
import { UsageError } from './exit.ts'

const MAIN = fileURLToPath(new URL('./main.ts', import.meta.url))
const MAX_OUTPUT = 1 << 28

/** A range as git writes it. @throws RangeError */
export function parseRange(text: string): readonly [good: string, bad: string] {
  const [, good, bad] = /^([^-.][^ ]*?)(?<!\.)\.\.([^-. ][^ ]*)$/.exec(text) ?? []
  if (good === undefined || bad === undefined) throw new RangeError(`"${text}": expected two commits, GOOD..BAD`)
  return [good, bad]
}

interface Ended {
  readonly code: number
  readonly out: string
  readonly err: string
}

/** @throws Error when it cannot be started, or `signal` ends it */
function run(command: string, args: readonly string[], cwd: string, signal: AbortSignal): Promise<Ended> {
  return new Promise((resolve, reject) => {
    execFile(command, args, { cwd, signal, maxBuffer: MAX_OUTPUT }, (error, out, err) => {
      if (error === null) resolve({ code: 0, out, err })
      else if (typeof error.code === 'number') resolve({ code: error.code, out, err })
      else reject(signal.aborted ? signal.reason : error)
    })
  })
}

/** What replay says of the policy of a commit; undefined: it cannot be told, as with a policy that does not load. */
type Outcome = string | undefined

export interface Bisection {
  /** The first commit with another outcome: hash and subject; undefined: not told apart from those that cannot be tried. */
  readonly commit: string | undefined
  /** Its outcome, and that of GOOD. */
  readonly outcome: string
  readonly good: string
  /** Commits that could not be tried. */
  readonly skipped: number
  /** Replays that it took. */
  readonly tried: number
}

export interface BisectOptions {
  readonly recording: string
  /** Name or file. */
  readonly policy: string
  readonly range: readonly [good: string, bad: string]
  /** Further options of `replay`. */
  readonly more: readonly string[]
  readonly signal: AbortSignal
  readonly say: (text: string) => void
}

/** @throws UsageError when there are no such commits, or their outcomes are the same */
export async function bisect({ recording, policy, range, more, signal, say }: BisectOptions): Promise<Bisection> {
  const named = policyPath(policy)
  // git's paths have no links to folders in them.
  const file = join(realpathSync(dirname(named)), basename(named))
  const git = async (cwd: string, ...args: string[]) => {
    const ended = await run('git', ['-c', 'core.hooksPath=/dev/null', ...args], cwd, signal)
    return { ...ended, out: ended.out.trim() }
  }
  const top = await git(dirname(file), 'rev-parse', '--show-toplevel')
  if (top.code !== 0) throw new UsageError(`${file} is in no git repository`)
  const inside = relative(top.out, file)
  const [good, bad] = await Promise.all(
    range.map(async name => {
      const found = await git(top.out, 'rev-parse', '--verify', '--quiet', '--end-of-options', `${name}^{commit}`)
      if (found.code !== 0) throw new UsageError(`no commit ${name} in ${top.out}`)
      return found.out
    }),
  )
  if (good === undefined || bad === undefined) throw new UsageError('expected two commits')
  const folder = mkdtempSync(join(tmpdir(), 'smmu-cosim-bisect-'))
  const tree = join(folder, 'tree')
  let tried = 0
  let skipped = 0

  const outcome = async (commit: string): Promise<Outcome> => {
    const path = join(tree, inside)
    const { out: name } = await git(tree, 'log', '-1', '--format=%h %s', commit)
    if (!existsSync(path)) {
      say(`${name}: has no ${inside}`)
      return undefined
    }
    tried++
    const { out, err } = await run(
      process.execPath,
      [MAIN, 'replay', recording, '--policy', path, '--all', '--no-type-check', ...more],
      tree,
      signal,
    )
    const lines = out.split('\n').filter(line => !/^[0-9]+ traps replayed in /.test(line))
    // Without a report it was the policy that failed: when it was loaded, or when it had to decide.
    if (lines.length === out.split('\n').length) {
      const [message = ''] = err.replaceAll(tree, '').split('\n')
      say(`${name}: ${message}`)
      return /: policy (file )?\S+( has no default|: )/.test(message) ? undefined : message
    }
    const text = lines.join('\n').replaceAll(tree, '')
    say(`${name}: ${text.startsWith('no difference') ? 'no difference' : 'differs from the recording'}`)
    return text
  }

  try {
    const added = await git(top.out, 'worktree', 'add', '--detach', '--quiet', tree, good)
    if (added.code !== 0) throw new Error(added.err.trim())
    const modules = join(top.out, 'node_modules')
    if (existsSync(modules) && !existsSync(join(tree, 'node_modules'))) symlinkSync(modules, join(tree, 'node_modules'))
    const before = await outcome(good)
    if (before === undefined) throw new UsageError(`the policy of ${range[0]} cannot be replayed`)
    await git(tree, 'checkout', '--quiet', '--detach', bad)
    let last = await outcome(bad)
    if (last === undefined) throw new UsageError(`the policy of ${range[1]} cannot be replayed`)
    if (last === before) throw new UsageError(`${range[0]} and ${range[1]} decide the recording alike`)
    let step = await git(tree, 'bisect', 'start', bad, good)
    while (step.code === 0 && !/is the first bad commit/.test(step.out)) {
      const { out: commit } = await git(tree, 'rev-parse', 'HEAD')
      const now = await outcome(commit)
      if (now === undefined) skipped++
      else if (now !== before) last = now
      step = await git(tree, 'bisect', now === undefined ? 'skip' : now === before ? 'good' : 'bad')
    }
    // 2: only commits that cannot be tried are left.
    if (step.code !== 0 && !/only 'skip'ped commits left/.test(step.out)) {
      throw new Error(`git bisect: ${(step.err || step.out).trim()}`)
    }
    const found = step.code === 0 ? await git(tree, 'log', '-1', '--format=%h %s', 'refs/bisect/bad') : undefined
    return { commit: found?.out, outcome: last, good: before, skipped, tried }
  } finally {
    // What was interrupted is cleared away, too.
    const always = new AbortController().signal
    await run('git', ['worktree', 'remove', '--force', tree], top.out, always)
    rmSync(folder, { recursive: true, force: true })
  }
}
