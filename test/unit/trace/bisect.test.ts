// SPDX-License-Identifier: Apache-2.0
/** `replay --bisect`: which commit of a policy changed what a recording comes to. Real git, real replays. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { parseRange } from '../../../server/cli/bisect.ts'
import { bootRecording, folder } from './synthetic.ts'

const main = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))
const pkvm = fileURLToPath(new URL('../../../server/hypervisor/pkvm/policy.ts', import.meta.url))

/** A policy that answers reads of this register with these bits beside its own. */
const policy = (offset: number, bits: number, more = '') => `
import { pkvm } from ${JSON.stringify(pkvm)}
${more}
export default (machine, context) => pkvm(machine, context, {
  name: 'own',
  registers: { [${offset}]: rule => ({ ...rule, read(smmu, trap) { rule.read?.(smmu, trap); trap.lo = (trap.lo | ${bits}) >>> 0 } }) },
})
`

async function history(...files: readonly (string | undefined)[]) {
  const repository = folder()
  const git = (...args: string[]) =>
    execFileSync('git', ['-c', 'user.name=a', '-c', 'user.email=a@b', ...args], { cwd: repository, encoding: 'utf8' })
  git('init', '--quiet', '-b', 'main')
  const path = join(repository, 'policy.ts')
  const commits = files.map((text, i) => {
    if (text === undefined) git('rm', '--quiet', 'policy.ts')
    else writeFileSync(path, text)
    git('add', '-A')
    git('commit', '--quiet', '--allow-empty', '-m', `change ${i}`)
    return git('rev-parse', '--short', 'HEAD').trim()
  })
  const recording = join(repository, 'recording')
  const temporary = folder()
  await bootRecording(recording)
  const command = (range: string, policy = path, ...more: string[]) => ({
    args: [main, 'replay', recording, '--policy', policy, '--bisect', range, ...more],
    options: { encoding: 'utf8', cwd: repository, env: { ...process.env, TMPDIR: temporary } } as const,
  })
  const run = (...given: Parameters<typeof command>) => {
    const { args, options } = command(...given)
    const { status, stdout, stderr } = spawnSync(process.execPath, args, options)
    return { status, out: stdout, err: stderr }
  }
  return { repository, git, commits, command, run, temporary }
}

test('the commit that changed an outcome, past one that changed nothing and one that does not load', async () => {
  const { git, commits, run, temporary } = await history(
    policy(0, 0),
    policy(0, 0, '// the same'),
    policy(0, 0, 'syntax error here'),
    policy(0, 0, '// still the same'),
    policy(0, 0x4000_0000),
    policy(0, 0x4000_0000, '// and so on'),
  )
  writeFileSync(join(git('rev-parse', '--show-toplevel').trim(), 'policy.ts'), 'work in progress')
  const { status, out, err } = run(`${commits[0]}..main`)
  expect({ status, err }).toEqual({ status: 0, err: expect.stringContaining('change 5: differs from the recording') })
  expect(out).toMatch(/^the first commit that decides differently: [0-9a-f]+ change 4\n/)
  expect(out).toMatch(/^outcome of R IDR0|R IDR0/m)
  expect(out).toMatch(/replays, [01] commits that cannot be replayed\n$/)
  // Nothing of the user's was touched, and nothing is left behind.
  expect(git('status', '--porcelain').split('\n')).toContain(' M policy.ts')
  expect(git('worktree', 'list').trim().split('\n')).toHaveLength(1)
  expect(git('for-each-ref', 'refs/bisect')).toBe('')
  expect(readdirSync(temporary)).toEqual([])
})

test('one of those that do not load: it is said that it cannot be told', async () => {
  const { commits, run } = await history(policy(0, 0), 'no policy', undefined, policy(0, 0x4000_0000))
  const { status, out, err } = run(`${commits[0]}..${commits[3]}`)
  expect([status, out]).toEqual([
    1,
    expect.stringMatching(/^only commits that cannot be replayed are left; .* 2 commits/),
  ])
  expect(err).toContain('change 2: has no policy.ts')
})

test('a policy that throws has an outcome', async () => {
  const { commits, run } = await history(
    policy(0, 0),
    policy(0, 0, 'export const description = undefined').replace(
      'trap.lo =',
      "throw new Error('own mistake'); trap.lo =",
    ),
  )
  const { status, out } = run(`${commits[0]}..${commits[1]}`)
  expect([status, out]).toEqual([0, expect.stringMatching(/change 1\n.*own mistake/)])
})

test('with blocks, where they are asked for', async () => {
  const changed = policy(0, 0x4000_0000).replace('export default', 'const changed =')
  const { commits, run } = await history(
    policy(0, 0),
    `${changed}export default (machine, context) => (context.options.blocks && context.options.bbm === 1 ? changed : pkvm)(machine, context)`,
  )
  const { status, out } = run(`${commits[0]}..${commits[1]}`, undefined, '--blocks', '--bbm', '1')
  expect([status, out]).toEqual([0, expect.stringMatching(/^the first commit that decides differently: .* change 1\n/)])
  expect(out).toContain('outcome of R IDR0')
})

test('by a link to the folder that it is in', async () => {
  const { repository, commits, run, temporary } = await history(policy(0, 0), policy(0, 0x4000_0000))
  const link = join(temporary, 'link')
  symlinkSync(repository, link)
  const { status, out } = run(`${commits[0]}..${commits[1]}`, join(link, 'policy.ts'))
  expect([status, out]).toEqual([0, expect.stringMatching(/ change 1\n/)])
})

test('interrupted, it leaves nothing behind', async () => {
  const { git, commits, command, temporary } = await history(policy(0, 0), policy(0, 0, 'for (;;);'))
  const { args, options } = command(`${commits[0]}..${commits[1]}`)
  const child = spawn(process.execPath, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', text => {
    said += text
    if (said.includes('change 0: no difference')) setTimeout(() => child.kill('SIGINT'), 500)
  })
  expect(await once(child, 'close')).toEqual([130, null])
  expect(said).toMatch(/^smmu-cosim: interrupted$/m)
  expect(git('worktree', 'list').trim().split('\n')).toHaveLength(1)
  expect(readdirSync(temporary)).toEqual([])
})

test.each([
  ['HEAD..HEAD', /decide the recording alike/],
  ['HEAD..none', /no commit none/],
])('%s', async (range, message) => {
  const { run } = await history(policy(0, 0))
  const { status, err } = run(range)
  expect([status, err]).toEqual([2, expect.stringMatching(message)])
})

test('a range', () => {
  expect(parseRange('v1.0..HEAD~2')).toEqual(['v1.0', 'HEAD~2'])
  for (const text of ['a', 'a..', '..b', '--x..b', 'a..-b', 'a...b'])
    expect(() => parseRange(text)).toThrow(/GOOD\.\.BAD/)
})
