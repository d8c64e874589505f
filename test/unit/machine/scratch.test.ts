// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { LockedFolder } from '../../../server/machine/lockedFolder.ts'
import { ownFolder, privateFolder, reserve } from '../../../server/machine/scratch.ts'
import { writeWhole } from '../../../server/machine/wholeFile.ts'

const MODULE = new URL('../../../server/machine/scratch.ts', import.meta.url).href

let parent: string
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'smmu-cosim-scratch-'))
})
afterEach(() => rmSync(parent, { recursive: true }))

function node(script: string) {
  return spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
}

/** A process that makes a folder there and lives until it is killed; resolves with both. */
async function somebody() {
  const child = node(`import { privateFolder } from ${JSON.stringify(MODULE)}
    console.log(privateFolder(${JSON.stringify(parent)}, 'theirs-'))
    setInterval(() => {}, 1e6)`)
  const [line] = await once(child.stdout, 'data')
  const folder = String(line).trim()
  writeFileSync(join(folder, 'ram'), 'x')
  return { child, folder }
}

describe('scratch folders', () => {
  test('what a killed process left is removed; what belongs to somebody alive, or is not ours, stays', async () => {
    writeFileSync(join(parent, 'smmu-cosim.notes'), '')
    // Somebody else's idea of a name like that.
    mkdirSync(join(parent, 'smmu-cosim.folder'))
    writeFileSync(join(parent, 'smmu-cosim.folder/notes'), '')
    const alive = await somebody()
    try {
      const killed = await somebody()
      killed.child.kill('SIGKILL')
      await once(killed.child, 'exit')
      const own = privateFolder(parent, 'own-')
      expect(existsSync(killed.folder)).toBe(false)
      expect(existsSync(join(alive.folder, 'ram'))).toBe(true)
      expect(privateFolder(parent, 'own-')).not.toBe(own)
      expect(readdirSync(parent)).toHaveLength(5)
    } finally {
      alive.child.kill('SIGKILL')
      await once(alive.child, 'exit')
    }
  })

  test('the lock counts, and not whether the process in the name is alive: it may be of another PID namespace', () => {
    const other = LockedFolder.make(parent, 'smmu-cosim.999999999-')
    ownFolder(parent).remove()
    expect(existsSync(other.path)).toBe(true)
    other.release()
    ownFolder(parent).remove()
    expect(existsSync(other.path)).toBe(false)
  })

  test('a lock file that is a link is not followed', () => {
    writeFileSync(join(parent, 'precious'), 'x')
    mkdirSync(join(parent, 'smmu-cosim.1-trap'))
    symlinkSync(join(parent, 'precious'), join(parent, 'smmu-cosim.1-trap/.lock'))
    symlinkSync(parent, join(parent, 'smmu-cosim.1-link'))
    ownFolder(parent).remove()
    expect(readFileSync(join(parent, 'precious'), 'utf8')).toBe('x')
    expect(readdirSync(parent).sort()).toEqual(['precious', 'smmu-cosim.1-link', 'smmu-cosim.1-trap'])
  })

  test('processes that make folders and sweep at the same time do not take them from each other', async () => {
    const script = `import { existsSync } from 'node:fs'
      import { ownFolder } from ${JSON.stringify(MODULE)}
      for (let i = 0; i < 30; i++) {
        const folders = [ownFolder(${JSON.stringify(parent)}), ownFolder(${JSON.stringify(parent)})]
        if (!folders.every(({ path }) => existsSync(path))) throw new Error('it is gone')
        // Half of them are left to be swept.
        folders[0].remove()
        folders[1].release()
      }`
    const children = Array.from({ length: 4 }, () => node(script))
    const codes = await Promise.all(children.map(child => once(child, 'exit').then(([code]) => code)))
    expect(codes).toEqual([0, 0, 0, 0])
    ownFolder(parent).remove()
    expect(readdirSync(parent)).toEqual([])
  })
})

describe('guest RAM', () => {
  test('has all its room from the start', async () => {
    const path = join(parent, 'ram')
    writeFileSync(path, '')
    await reserve(path, 4 << 20)
    const { size, blocks } = statSync(path)
    expect(size).toBe(4 << 20)
    expect(blocks * 512).toBeGreaterThanOrEqual(4 << 20)
  })

  test('what does not fit is said, with what there is', async () => {
    const folder = mkdtempSync('/dev/shm/smmu-cosim-test-')
    try {
      const path = join(folder, 'ram')
      closeSync(openSync(path, 'wx'))
      const { bavail, bsize } = statfsSync(folder)
      const free = Math.floor((bavail * bsize) / 2 ** 20)
      await expect(reserve(path, 2 ** 50)).rejects.toThrow(
        /^\/dev\/shm has \d+ MiB free, guest RAM needs 1073741824 MiB: choose a smaller --memory or another --ram-dir$/,
      )
      expect(free).toBeLessThan(2 ** 30)
      expect(statSync(path).size).toBe(0)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

describe('files that are written whole', () => {
  test('the new one, or the old one and why', async () => {
    const path = join(parent, 'report.json')
    await writeWhole(path, 'old')
    await writeWhole(path, 'new')
    expect(readFileSync(path, 'utf8')).toBe('new')
    expect(readdirSync(parent)).toEqual(['report.json'])
    // As when the disk is full: the content cannot be made.
    const bad = { toString: () => path } as unknown as string
    await expect(writeWhole(path, bad)).rejects.toThrow(`${path} was not written: `)
    expect(readFileSync(path, 'utf8')).toBe('new')
    expect(readdirSync(parent)).toEqual(['report.json'])
  })

  test('a full disk', async () => {
    const path = join(parent, 'report.json')
    writeFileSync(path, 'old')
    // A limit on the size of files is the full disk that everybody can have.
    const wholeFile = new URL('../../../server/machine/wholeFile.ts', import.meta.url).href
    const script = `import { writeWhole } from ${JSON.stringify(wholeFile)}
      process.on('SIGXFSZ', () => {})
      try { await writeWhole(${JSON.stringify(path)}, 'x'.repeat(1 << 20)) } catch (error) { console.log(error.message) }`
    const child = spawn('sh', ['-c', 'ulimit -f 16; exec "$0" --input-type=module -e "$1"', process.execPath, script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [said] = await once(child.stdout, 'data')
    await once(child, 'exit')
    expect(String(said)).toContain(`${path} was not written: EFBIG`)
    expect(readFileSync(path, 'utf8')).toBe('old')
    expect(readdirSync(parent)).toEqual(['report.json'])
  })

  test('what is no file is written to', async () => {
    await writeWhole('/dev/null', 'x')
    expect(statSync('/dev/null').isFile()).toBe(false)
  })
})
