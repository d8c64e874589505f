// SPDX-License-Identifier: Apache-2.0
/** What is watched for changes: the files that the trap thread's code comes from, wherever they are, and no others. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LiveCode } from '../../../server/control/liveCode.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing } from '../../../server/trace/ring.ts'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const PATIENCE = { timeout: 20_000, interval: 20 }

let folder: string
let thread: TrapThread
const said: string[] = []

beforeEach(() => {
  folder = privateFolder(tmpdir(), 'test-')
  for (const name of ['mine', 'lib']) mkdirSync(join(folder, name))
  said.length = 0
})
afterEach(async () => {
  await thread.stop()
  rmSync(folder, { recursive: true })
})

async function start(policy: string): Promise<void> {
  thread = await TrapThread.start({
    listen: join(folder, 'trap'),
    policy,
    policyOptions: {},
    ramFile: join(folder, 'ram'),
    ring: createRing(1 << 16),
    counters: createCounters(),
    panicOnWarn: false,
  })
}

/** The import graph as another program sees it: all that is reached from these files without imports of types. */
function reached(from: readonly string[]): string[] {
  interface Cruise {
    modules: { source: string; dependencies: { resolved: string; dependencyTypes: string[] }[] }[]
  }
  const arguments_ = ['--config', '.dependency-cruiser.mjs', '--output-type', 'json', 'server', 'protocol']
  const options = { cwd: ROOT, encoding: 'utf8', maxBuffer: 1 << 26 } as const
  const { modules } = JSON.parse(execFileSync(join(ROOT, 'node_modules/.bin/depcruise'), arguments_, options)) as Cruise
  const found = new Set<string>()
  const visit = (file: string): void => {
    if (found.has(file)) return
    found.add(file)
    const { dependencies = [] } = modules.find(({ source }) => source === file) ?? {}
    for (const { resolved, dependencyTypes } of dependencies) {
      if (!dependencyTypes.includes('type-only')) visit(resolved)
    }
  }
  for (const file of from) visit(file)
  return [...found].sort()
}

test('the modules of the thread are all that the import graph leads to, and no more', async () => {
  await start('pkvm')
  const modules = [...thread.modules].map(path => relative(ROOT, path)).sort()
  expect(modules).toEqual(reached(['server/trap/worker.ts', 'server/hypervisor/pkvm/policy.ts']))
  expect(modules).toContain('server/faults/names.ts')
  expect(modules).not.toContain('server/hypervisor/passthrough/policy.ts')
  expect(modules).not.toContain('server/policy/builtin.ts')
})

const POLICY = (value: string, more = '') => `
${more}
export default () => ({ name: 'answers', reset() {}, access(trap) { trap.lo = ${value} } })
`

test('a module in another folder, one that comes with it, and what nobody loads', async () => {
  const policy = join(folder, 'mine/policy.ts')
  const helper = join(folder, 'lib/helper.ts')
  const added = join(folder, 'lib/added.ts')
  const other = join(folder, 'lib/other.ts')
  writeFileSync(helper, 'export const value = 1\n')
  writeFileSync(other, '\n')
  writeFileSync(policy, POLICY('value', "import { value } from '../lib/helper.ts'"))
  await start(policy)
  const live = new LiveCode({ thread: () => thread, policy, say: line => said.push(line), types: false })
  const replaced = () => said.filter(line => line.includes('new code in place'))
  try {
    writeFileSync(helper, 'export const value = 2\n')
    await expect.poll(replaced, PATIENCE).toHaveLength(1)
    expect(replaced()[0]).toContain('helper.ts')

    // A file that is not there yet: what imports it is refused, and its arrival mends it.
    writeFileSync(helper, "export { value } from './added.ts'\n")
    await expect.poll(() => said.at(-1), PATIENCE).toBe('the old code goes on')
    writeFileSync(added, 'export const value = ;\n')
    await expect.poll(() => said.filter(line => line === 'the old code goes on'), PATIENCE).toHaveLength(2)
    writeFileSync(added, 'export const value = 3\n')
    await expect.poll(replaced, PATIENCE).toHaveLength(2)
    expect(replaced()[1]).toContain('added.ts')

    // A change in a file that is not part of it says nothing; one that is, after it, does.
    writeFileSync(other, 'export const unused = 1\n')
    writeFileSync(added, 'export const value = 4\n')
    await expect.poll(replaced, PATIENCE).toHaveLength(3)
    expect(said.filter(line => line.includes('other.ts'))).toEqual([])
  } finally {
    live.close()
  }
})

test('what is no longer imported is no longer watched', async () => {
  const policy = join(folder, 'mine/policy.ts')
  const helper = join(folder, 'mine/helper.ts')
  writeFileSync(helper, 'export const value = 1\n')
  writeFileSync(policy, POLICY('value', "import { value } from './helper.ts'"))
  await start(policy)
  expect(thread.modules).toContain(helper)
  writeFileSync(policy, POLICY('2'))
  await thread.swap()
  expect(thread.modules).not.toContain(helper)
  expect(thread.modules).toContain(policy)
})
