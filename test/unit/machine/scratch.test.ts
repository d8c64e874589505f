// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'

const MODULE = new URL('../../../server/machine/scratch.ts', import.meta.url).href

let parent: string
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'smmu-cosim-scratch-'))
})
afterEach(() => rmSync(parent, { recursive: true }))

/** A process that makes a folder there and lives until it is killed; resolves with both. */
async function somebody() {
  const make = `import { privateFolder } from ${JSON.stringify(MODULE)}
    console.log(privateFolder(${JSON.stringify(parent)}, 'theirs-'))
    setInterval(() => {}, 1e6)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', make], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = await once(child.stdout, 'data')
  const folder = String(line).trim()
  writeFileSync(join(folder, 'ram'), 'x')
  return { child, folder }
}

test('what a killed process left is removed; what belongs to somebody alive, or is not ours, stays', async () => {
  writeFileSync(join(parent, 'smmu-cosim-notes'), '')
  const alive = await somebody()
  try {
    const killed = await somebody()
    killed.child.kill('SIGKILL')
    await once(killed.child, 'exit')
    const own = privateFolder(parent, 'own-')
    expect(existsSync(killed.folder)).toBe(false)
    expect(existsSync(join(alive.folder, 'ram'))).toBe(true)
    expect(privateFolder(parent, 'own-')).not.toBe(own)
    expect(readdirSync(parent)).toHaveLength(4)
  } finally {
    alive.child.kill('SIGKILL')
    await once(alive.child, 'exit')
  }
})
