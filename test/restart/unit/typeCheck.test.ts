// SPDX-License-Identifier: Apache-2.0
import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LiveCode } from '../../../server/control/liveCode.ts'
import { TypeCheck } from '../../../server/control/typeCheck.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'

const PATIENCE = { timeout: 100_000, interval: 100 }
const POLICY = new URL('../../../server/policy/policy.ts', import.meta.url).pathname

/** A policy whose answer to every read is this expression. */
const source = (answer: string) => `
import type { PolicyFactory } from '${POLICY}'
const policy: PolicyFactory = () => ({
  name: 'answers',
  reset() {},
  access(trap) { trap.lo = ${answer} },
})
export default policy
`

let folder: string
let policy: string
const said: string[] = []
/** What was said about the policy: others may be at work in the tree. */
const about = () => said.filter(line => line.includes('policy.ts'))

beforeEach(() => {
  folder = privateFolder(tmpdir(), 'test-')
  policy = join(folder, 'policy.ts')
  said.length = 0
})
afterEach(() => rmSync(folder, { recursive: true }))

const say = (line: string) => void said.push(line)

test('a type error is told with its place', async () => {
  writeFileSync(policy, source("'seven'"))
  const types = new TypeCheck({ policy, say })
  try {
    types.check()
    await expect.poll(about, PATIENCE).toHaveLength(1)
    expect(about()[0]).toMatch(/^type error: \S*policy\.ts:6:18: error TS2322: Type 'string' is not assignable/)

    said.length = 0
    writeFileSync(policy, source('7'))
    types.check()
    types.check()
    await expect.poll(() => said, PATIENCE).not.toEqual([])
    expect(about()).toEqual([])
  } finally {
    types.close()
  }
  expect(readdirSync(tmpdir()).filter(name => name.startsWith(`smmu-cosim.${process.pid}-types-`))).toEqual([])
})

test('code with a type error takes over all the same', async () => {
  writeFileSync(policy, source('7'))
  let swaps = 0
  const swap = async () => {
    swaps++
    return { firstTrap: new Promise<number>(() => {}), repairs: [], gapMs: 1 }
  }
  const thread = { swap, modules: new Set([policy]), parked: false }
  const live = new LiveCode({ thread: () => thread, policy, say })
  try {
    writeFileSync(policy, source("'seven'"))
    await expect.poll(about, PATIENCE).toHaveLength(2)
    expect(about()[0]).toContain('new code in place')
    expect(about()[1]).toContain('type error')
    expect(swaps).toBe(1)
  } finally {
    live.close()
  }
})
