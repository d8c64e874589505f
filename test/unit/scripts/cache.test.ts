// SPDX-License-Identifier: Apache-2.0
/** What is in the cache is used when it is what was put there, and made again when it is not. */
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'

const home = mkdtempSync(join(tmpdir(), 'smmu-cosim-cache-'))
let cache: typeof import('../../../scripts/setup/cache.ts')
let setup: typeof import('../../../scripts/setup/index.ts')

/** What set-up ran or fetched. */
const done = vi.hoisted((): string[] => [])
const VERSION = '6.12.1+deb13-arm64'

vi.mock('../../../scripts/setup/packages.ts', () => ({ installHostPackages: async () => {} }))

/** Debian's archive: packages are empty files, and dpkg-deb (below) knows what is in them. */
vi.mock('../../../scripts/setup/apt.ts', () => ({
  PrivateApt: {
    open: async () => ({
      field: async (name: string) => (name === 'linux-image-arm64' ? `linux-image-${VERSION} (= 1)` : ''),
      names: async () => [`linux-image-${VERSION}`],
      download: async (name: string, dir: string) => {
        done.push(`download ${name}`)
        mkdirSync(dir, { recursive: true })
        const deb = join(dir, `${name}_1.0_arm64.deb`)
        writeFileSync(deb, '')
        return deb
      },
    }),
  },
}))

/** Programs that set-up runs. */
vi.mock('../../../scripts/setup/run.ts', async original => {
  const real = await original<typeof import('../../../scripts/setup/run.ts')>()
  const write = (path: string, text: string, mode = 0o644) => {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text, { mode })
  }
  const programs: Record<string, (args: string[], cwd: string) => void> = {
    'dpkg-deb': ([, deb = '', to = '']) => {
      if (deb.includes('busybox')) return write(join(to, 'usr/bin/busybox'), 'busybox', 0o755)
      write(join(to, 'boot', `vmlinuz-${VERSION}`), 'a kernel image')
      write(join(to, 'usr/lib/modules', VERSION, 'kernel/nvme.ko'), 'nvme module')
    },
    '/sbin/depmod': ([, dir = '']) => write(join(dir, 'lib/modules', VERSION, 'modules.dep'), 'kernel/nvme.ko:\n'),
    cp: ([, from = '', to = '']) => cpSync(from, to, { recursive: true }),
    nice: (_args, cwd) => {
      const binary = join(cwd, 'qemu-system-aarch64')
      // As Ninja: what is there is up to date.
      if (!existsSync(binary)) write(binary, '#!/bin/sh\necho QEMU 10\n', 0o755)
    },
  }
  return {
    ...real,
    run: async (command: string, args: string[], { cwd = '' }: { cwd?: string }) => {
      const name = command.endsWith('/configure') ? 'configure' : command
      done.push([name, ...(name === 'nice' ? ['ninja'] : [])].join(' '))
      programs[name]?.(args, cwd)
      return ''
    },
  }
})

/** The patches change nothing of a source that has nothing in it. */
vi.mock('../../../scripts/setup/patches.ts', async original => ({
  ...(await original<typeof import('../../../scripts/setup/patches.ts')>()),
  applyPatches: async () => {},
}))

beforeAll(async () => {
  vi.stubEnv('XDG_CACHE_HOME', home)
  cache = await import('../../../scripts/setup/cache.ts')
  setup = await import('../../../scripts/setup/index.ts')
})
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(home, { recursive: true })
})
beforeEach(() => {
  rmSync(join(home, 'smmu-cosim'), { recursive: true, force: true })
  mkdirSync(join(home, 'smmu-cosim'))
  done.length = 0
})

const at = (...parts: string[]) => join(home, 'smmu-cosim', ...parts)
const quiet = { progress: () => {} }

/** Changes one byte, and neither length nor time. */
function flip(path: string): void {
  const { atime, mtime } = statSync(path)
  const bytes = readFileSync(path)
  bytes[bytes.length >> 1] ^= 1
  writeFileSync(path, bytes)
  utimesSync(path, atime, mtime)
}

/** All files of a folder, by name, with what is in them. */
const contents = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile())
      .map(entry => join(entry.parentPath, entry.name))
      .sort()
      .map(path => [path.slice(folder.length + 1), readFileSync(path, 'utf8')]),
  )

describe('what is published', () => {
  const folder = () => {
    mkdirSync(at('made/sub'), { recursive: true })
    writeFileSync(at('made/one'), 'one')
    writeFileSync(at('made/sub/two'), 'two')
    return at('made')
  }

  test('a folder is there as a whole, and is found intact until something of it changes', async () => {
    await cache.publish(folder(), at('place'))
    expect(existsSync(at('made'))).toBe(false)
    expect(await cache.intact(at('place'))).toBe(true)
    flip(at('place/sub/two'))
    expect(await cache.intact(at('place'))).toBe(false)
    expect(await cache.intact(at('place'), 'one')).toBe(true)
    flip(at('place/sub/two'))
    expect(await cache.intact(at('place'))).toBe(true)
    truncateSync(at('place/one'), 2)
    expect(await cache.intact(at('place'), 'sub/two')).toBe(true)
    expect(await cache.intact(at('place'))).toBe(false)
    rmSync(at('place/one'))
    expect(await cache.intact(at('place'))).toBe(false)
    expect(await cache.intact(at('place'), 'three')).toBe(false)
    expect(await cache.intact(at('nowhere'))).toBe(false)
  })

  test('a file', async () => {
    writeFileSync(at('made'), 'content')
    await cache.publish(at('made'), at('place'))
    expect(await cache.intact(at('place'))).toBe(true)
    truncateSync(at('place'), 0)
    expect(await cache.intact(at('place'))).toBe(false)
    // As from before there were sums.
    writeFileSync(at('old'), 'content')
    expect(await cache.intact(at('old'))).toBe(false)
  })

  test('it takes the place of a damaged one, and leaves nothing else', async () => {
    await cache.publish(folder(), at('home/place'))
    flip(at('home/place/one'))
    writeFileSync(at('home/place/more'), '')
    await cache.publish(folder(), at('home/place'))
    expect(await cache.intact(at('home/place'))).toBe(true)
    expect(readdirSync(at('home'))).toEqual(['place'])
    expect(Object.keys(contents(at('home/place')))).toEqual(['.sha256', 'one', 'sub/two'])
  })

  test('one that is there already, and is the same, stays: somebody may be reading it', async () => {
    await cache.publish(folder(), at('place'))
    const { ino } = statSync(at('place'))
    await cache.publish(folder(), at('place'))
    expect(statSync(at('place')).ino).toBe(ino)
    expect(existsSync(at('made'))).toBe(false)
  })

  test('hidden folders are no versions', async () => {
    for (const name of ['10', '9', '.old-x']) mkdirSync(at(name))
    expect(await cache.entries(at())).toEqual(['9', '10'])
  })
})

describe('a kernel', () => {
  const image = () => at('kernel/6.12', VERSION, 'boot', `vmlinuz-${VERSION}`)
  const modules = (name: string) => at('kernel/6.12', VERSION, 'lib/modules', VERSION, name)

  test('is fetched once', async () => {
    const files = await setup.ensureKernel(quiet)
    expect(readFileSync(files.image, 'utf8')).toBe('a kernel image')
    const before = done.length
    expect(await setup.ensureKernel(quiet)).toEqual(files)
    expect(done).toHaveLength(before)
  })

  test.each([
    ['is cut short', () => truncateSync(image(), 5)],
    ['is empty', () => truncateSync(image(), 0)],
    ['has another byte', () => flip(image())],
    ['is gone', () => rmSync(image())],
    ['has a module that is cut short', () => truncateSync(modules('kernel/nvme.ko'), 1)],
    ['has other dependencies', () => flip(modules('modules.dep'))],
    ['has sums that are cut short', () => truncateSync(at('kernel/6.12', VERSION, '.sha256'), 70)],
  ])('that %s is fetched again', async (_what, damage) => {
    await setup.ensureKernel(quiet)
    damage()
    done.length = 0
    await setup.ensureKernel(quiet)
    expect(done).toContain(`download linux-image-${VERSION}`)
    expect(readFileSync(image(), 'utf8')).toBe('a kernel image')
    expect(readFileSync(modules('kernel/nvme.ko'), 'utf8')).toBe('nvme module')
  })
})

describe('an initramfs', () => {
  test('that is damaged is made again; so is busybox', async () => {
    const { modules } = await setup.ensureKernel(quiet)
    const path = await setup.ensureInitramfs({ ...quiet, modules })
    const content = readFileSync(path)
    expect(content.toString('latin1')).toContain('nvme module')
    const remade = async () => {
      done.length = 0
      expect(await setup.ensureInitramfs({ ...quiet, modules })).toBe(path)
      expect(Buffer.compare(readFileSync(path), content)).toBe(0)
      return done.filter(what => what.startsWith('download'))
    }
    truncateSync(path, 100)
    expect(await remade()).toEqual([])
    flip(path)
    expect(await remade()).toEqual([])
    flip(at('busybox/1.0/busybox'))
    flip(path)
    expect(await remade()).toEqual(['download busybox-static'])
  })
})

describe('QEMU', () => {
  const SOURCE = '1:10.0.11+ds-0+deb13u1'

  /** A binary that was published. */
  async function built(): Promise<string> {
    mkdirSync(at('qemu-source', SOURCE), { recursive: true })
    mkdirSync(at('qemu-source', SOURCE, 'configs/devices/aarch64-softmmu'), { recursive: true })
    const binary = await setup.ensureQemu(quiet)
    done.length = 0
    return binary
  }

  test('is built once', async () => {
    const binary = await built()
    expect(await setup.ensureQemu(quiet)).toBe(binary)
    expect(done).toEqual([])
  })

  test.each<[string, (binary: string) => void]>([
    ['is cut short', binary => truncateSync(binary, 12)],
    ['has another byte, and runs', binary => flip(binary)],
    ['is gone', binary => rmSync(binary)],
    ['cannot be run', binary => chmodSync(binary, 0o644)],
  ])('that %s is built again', async (_what, damage) => {
    const binary = await built()
    damage(binary)
    expect(await setup.ensureQemu(quiet)).toBe(binary)
    expect(readFileSync(binary, 'utf8')).toBe('#!/bin/sh\necho QEMU 10\n')
    expect(statSync(binary).mode & 0o111).toBe(0o111)
    expect(done).toContain('nice ninja')
  })

  test('that is cut short in the build tree as well, where Ninja takes it for new', async () => {
    const binary = await built()
    rmSync(dirname(binary), { recursive: true })
    const inTree = at('qemu-build', SOURCE, 'build/qemu-system-aarch64')
    writeFileSync(inTree, '\x7fELF')
    expect(await setup.ensureQemu(quiet)).toBe(binary)
    expect(readFileSync(binary, 'utf8')).toBe('#!/bin/sh\necho QEMU 10\n')
    renameSync(binary, `${binary}.moved`)
    expect(done.filter(what => what === 'nice ninja')).toHaveLength(2)
  })
})
