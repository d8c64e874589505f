// SPDX-License-Identifier: Apache-2.0
/** A source tree of the user's own is read, and only a copy of it is patched. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'

type Build = typeof import('../../../scripts/setup/qemuBuild.ts')

const home = mkdtempSync(join(tmpdir(), 'smmu-cosim-tree-'))
const tree = join(home, 'qemu')
const PATH = process.env.PATH ?? ''
let qemuTree: typeof import('../../../scripts/setup/qemuTree.ts')
let setup: typeof import('../../../scripts/setup/index.ts')
let readRecipe: Build['readRecipe']

vi.mock('../../../scripts/setup/packages.ts', () => ({ installHostPackages: async () => {} }))

beforeAll(async () => {
  vi.stubEnv('XDG_CACHE_HOME', home)
  qemuTree = await import('../../../scripts/setup/qemuTree.ts')
  setup = await import('../../../scripts/setup/index.ts')
  readRecipe = (await import('../../../scripts/setup/qemuBuild.ts')).readRecipe
})
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(home, { recursive: true })
})

function write(path: string, text: string, flag = 'w'): void {
  mkdirSync(dirname(join(tree, path)), { recursive: true })
  writeFileSync(join(tree, path), text, { flag })
}

beforeEach(() => {
  for (const name of readdirSync(home)) rmSync(join(home, name), { recursive: true })
  vi.stubEnv('PATH', PATH)
  write('VERSION', '10.2.2\n')
  write('configure', '')
  write('hw/arm/smmuv3.c', 'int smmuv3;\n')
})

describe('the version of a tree', () => {
  test('is what it says', () => {
    expect(qemuTree.treeVersion(tree)).toBe('10.2.2')
  })

  test.each([
    ['9.2.4\n', /QEMU 9\.2\.4; there are patches for 10\.0 and 10\.2/],
    ['1.5\n', /no source tree of QEMU/],
    ['', /no source tree of QEMU/],
  ])('%j is refused', (text, message) => {
    write('VERSION', text)
    expect(() => qemuTree.treeVersion(tree)).toThrow(message)
  })

  test('there is none without a configure', () => {
    rmSync(join(tree, 'configure'))
    expect(() => qemuTree.treeVersion(tree)).toThrow(/no source tree of QEMU/)
  })
})

describe('the copy', () => {
  const copy = join(home, 'copy')
  const inCopy = (path: string) => readFileSync(join(copy, path), 'utf8')
  const follow = (...patched: string[]) => qemuTree.follow(tree, copy, patched, join(home, 'record'))
  beforeEach(() => mkdirSync(copy))

  test('is what the tree is, without what Git keeps and what was built in it', async () => {
    write('.git/HEAD', 'ref')
    write('build/build.ninja', '')
    write('build/qemu-system-aarch64', '')
    write('roms/.git', 'gitdir: elsewhere')
    write('roms/edk2/readme', 'text')
    symlinkSync('VERSION', join(tree, 'link'))
    await follow()
    expect(readdirSync(copy, { recursive: true }).map(String).sort()).toEqual(
      [
        'VERSION',
        'configure',
        'hw',
        'hw/arm',
        'hw/arm/smmuv3.c',
        'link',
        'roms',
        'roms/edk2',
        'roms/edk2/readme',
      ].sort(),
    )
    expect(readlinkSync(join(copy, 'link'))).toBe('VERSION')
  })

  test('what changed is copied, and is newer than what was built of it; the rest is left alone', async () => {
    await follow()
    for (const path of ['VERSION', 'hw/arm/smmuv3.c']) utimesSync(join(copy, path), 1_000, 1_000)
    // Another branch, of which all times are old ones.
    write('hw/arm/smmuv3.c', 'int changed;\n')
    utimesSync(join(tree, 'hw/arm/smmuv3.c'), 500, 500)
    await follow()
    expect(inCopy('hw/arm/smmuv3.c')).toBe('int changed;\n')
    expect(statSync(join(copy, 'hw/arm/smmuv3.c')).mtimeMs).toBeGreaterThan(1_000_000)
    expect(statSync(join(copy, 'VERSION')).mtimeMs).toBe(1_000_000)
  })

  test('what is gone goes, and what a build made in the copy stays', async () => {
    write('old.c', '')
    await follow()
    writeFileSync(join(copy, 'cosim.mak'), '')
    rmSync(join(tree, 'old.c'))
    await follow()
    expect([existsSync(join(copy, 'old.c')), existsSync(join(copy, 'cosim.mak'))]).toEqual([false, true])
  })

  test('what was patched in the copy is left to the patches', async () => {
    await follow()
    writeFileSync(join(copy, 'hw/arm/smmuv3.c'), 'int patched;\n')
    write('hw/arm/smmuv3.c', 'int changed;\n')
    await follow('hw/arm/smmuv3.c')
    expect(inCopy('hw/arm/smmuv3.c')).toBe('int patched;\n')
  })
})

describe('a patch that does not apply', () => {
  /** So that Meson need not be fetched. */
  beforeEach(() => mkdirSync(join(home, 'smmu-cosim/meson'), { recursive: true }))
  const source = () => readFileSync(join(tree, 'hw/arm/smmuv3.c'), 'utf8')

  test.each(['10.2.2', '10.0.1'])('to QEMU %s is named, with its hunk, and the tree is as it was', async version => {
    write('VERSION', `${version}\n`)
    const text = source()
    const build = setup.ensureQemu({ qemu: tree, progress: () => {} })
    const message = 'qemu-patches/0001-hw-arm-smmuv3-.* does not apply: hw/arm/smmuv3\\.c, hunk 1 at line 434'
    await expect(build).rejects.toThrow(new RegExp(`QEMU ${version} of ${tree}: ${message}`))
    expect(source()).toBe(text)
  })

  test('of the newer series is named with its folder', async () => {
    const { patches } = await readRecipe('10.2.2')
    const first = patches.findIndex(({ name }) => name.startsWith('10.2/'))
    for (const { text } of patches.slice(0, first)) expectedBy(text)
    write('include/system/runstate.h', 'bool other;\n')
    await expect(setup.ensureQemu({ qemu: tree, progress: () => {} })).rejects.toThrow(
      /qemu-patches\/10\.2\/0005-.* does not apply: include\/system\/runstate\.h, hunk 1 at line \d+/,
    )
  })
})

describe('a tree that all patches apply to', () => {
  const bin = join(home, 'bin')
  const built = () => readFileSync(join(home, 'smmu-cosim/log/qemu-own.log'), 'utf8').match(/^\$ .*(configure|ninja)/gm)
  beforeEach(async () => {
    mkdirSync(join(home, 'smmu-cosim/meson'), { recursive: true })
    for (const { text } of (await readRecipe('10.2.2')).patches) expectedBy(text)
    write('configs/devices/aarch64-softmmu/default.mak', '')
    write('configure', '#!/bin/sh\n')
    chmodSync(join(tree, 'configure'), 0o755)
    // As the real one it makes a binary of what is in the copy.
    mkdirSync(bin)
    const ninja = `#!/bin/sh\necho '#!/bin/sh' >qemu-system-aarch64\necho "# $(cat ../tree/own.c)" >>qemu-system-aarch64\n`
    writeFileSync(join(bin, 'ninja'), `${ninja}chmod +x qemu-system-aarch64\n`, { mode: 0o755 })
    write('own.c', 'first')
    vi.stubEnv('PATH', `${bin}:${process.env.PATH}`)
  })

  test('is built again for a file that changed, and configured once; a machine that runs keeps its binary', async () => {
    const options = { qemu: tree, progress: () => {} }
    const first = await setup.ensureQemu(options)
    expect(readFileSync(first, 'utf8')).toContain('# first')
    expect(built()).toHaveLength(2)
    write('own.c', 'second')
    const second = await setup.ensureQemu(options)
    expect(readFileSync(second, 'utf8')).toContain('# second')
    expect(built()).toHaveLength(1)
    expect(readFileSync(first, 'utf8')).toContain('# first')
    expect(await setup.ensureQemu(options)).toBe(second)
    expect(await setup.ownQemu(second)).toEqual({ what: 'source', path: tree })
    expect(await setup.ownQemu('/usr/bin/qemu')).toEqual({ what: 'binary', path: '/usr/bin/qemu' })
  })

  test('has no patch on it afterwards', async () => {
    const file = join(tree, 'hw/arm/virt.c')
    const text = readFileSync(file, 'utf8')
    await setup.ensureQemu({ qemu: tree, progress: () => {} })
    expect(readFileSync(file, 'utf8')).toBe(text)
    expect(existsSync(join(tree, 'hw/arm/smmu-cosim'))).toBe(false)
    const [own = ''] = readdirSync(join(home, 'smmu-cosim/qemu-own'))
    expect(existsSync(join(home, 'smmu-cosim/qemu-own', own, 'tree/hw/arm/smmu-cosim/trap.c'))).toBe(true)
  })
})

/** Appends to the files of the tree what the hunks of a patch expect in those that QEMU has. */
function expectedBy(patch: string): void {
  for (const part of patch.split(/^diff --git /m).slice(1)) {
    const file = /^--- a\/(\S+)$/m.exec(part)?.[1]
    if (file === undefined || file.includes('cosim')) continue
    const lines = part.slice(part.indexOf('\n@@')).split('\n')
    for (const line of lines.filter(text => /^[ -]/.test(text))) write(file, `${line.slice(1)}\n`, 'a')
  }
}
