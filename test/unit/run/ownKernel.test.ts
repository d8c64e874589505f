// SPDX-License-Identifier: Apache-2.0
/** A kernel of one's own: what is no kernel, or lacks what the workload needs, is told before there is a machine. */

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, describe, expect, test } from 'vitest'
import { moduleContent } from '../../../scripts/setup/initramfs.ts'
import { guestModules, MAX_LIST } from '../../../scripts/setup/modules.ts'
import { readRegular } from '../../../scripts/setup/regularFile.ts'
import { DEVICE_NAMES, driversOf } from '../../../server/machine/devices.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { expectPages, needsOf } from '../../../server/run/files.ts'
import { imageFacts, type Needs, ownKernel } from '../../../server/run/ownKernel.ts'
import { loadSymbols } from '../../../server/trace/symbols.ts'
import { cosim } from '../../boot/cli.ts'

const folder = privateFolder(tmpdir(), 'kernel-')
afterAll(() => rmSync(folder, { recursive: true }))

const README = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')

const RELEASE = '6.12.3-mine'
/** An image as the boot protocol has it. @param flags bit 0: big-endian, bits 2:1: page size */
function image(flags = 0b010, release = RELEASE): Buffer {
  const bytes = Buffer.alloc(4096)
  bytes.writeUInt32LE(flags, 24)
  bytes.write('ARM\x64', 56, 'latin1')
  bytes.write(['arm,smmu-v3', 'virtio-pci', 'virtio_blk', 'nvme%d', 'virtio_net', 'e1000e', ''].join('\0'), 1000)
  bytes.write(`%s Linux version %s (%s)\0Linux version ${release} (me@here) #1`, 100)
  return bytes
}

/** As with CONFIG_IKCONFIG. */
const configured = (config: string): Buffer => {
  const bytes = image()
  bytes.fill(0, 1000, 1200)
  return Buffer.concat([bytes, Buffer.from('IKCFG_ST'), gzipSync(config), Buffer.from('IKCFG_ED')])
}
const WORKLOAD_CONFIG = ['ARM_SMMU_V3', 'VIRTIO_PCI', 'VIRTIO_BLK', 'BLK_DEV_NVME', 'VIRTIO_NET', 'E1000E']
  .map(name => `CONFIG_${name}=y\n`)
  .join('')

const WORKLOAD: Needs = { workload: true }

let count = 0
function tree(files: Readonly<Record<string, string | Uint8Array>>): string {
  const root = join(folder, String(++count))
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true })
    writeFileSync(join(root, name), content)
  }
  return root
}

const zimg = (inner: Buffer, how = 'gzip'): Buffer => {
  const packed = gzipSync(inner)
  const head = Buffer.alloc(64)
  head.write('MZ\0\0zimg', 0, 'latin1')
  head.writeUInt32LE(64, 8)
  head.writeUInt32LE(packed.length, 12)
  head.write(how, 24, 'latin1')
  return Buffer.concat([head, packed])
}

describe('an image', () => {
  test.each<[string, Uint8Array, object]>([
    ['plain', image(), { release: RELEASE, pageSize: 4096 }],
    ['16K pages', image(0b100), { release: RELEASE, pageSize: 16_384 }],
    ['64K pages', image(0b110), { release: RELEASE, pageSize: 65_536 }],
    ["gzip'ed", gzipSync(image()), { release: RELEASE, pageSize: 4096 }],
    ['EFI zboot', zimg(image()), { release: RELEASE, pageSize: 4096 }],
    ['EFI zboot, compressed otherwise', zimg(image(), 'zstd'), { pageSize: 0 }],
  ])('%s', (_, bytes, facts) => {
    expect(imageFacts(join(tree({ Image: bytes }), 'Image'))).toEqual(facts)
  })

  const x86 = Buffer.alloc(1024)
  x86.write('HdrS', 0x202)
  test.each<[string, Uint8Array, string]>([
    ['nothing', Buffer.alloc(0), 'it is empty'],
    [
      'text',
      Buffer.from('no kernel at all '.repeat(100)),
      'this is no arm64 kernel; expected an arm64 Image ("ARMd" at byte 56)',
    ],
    ['an ELF file', Buffer.concat([Buffer.from('\x7fELF'), Buffer.alloc(200)]), 'this is an ELF file, such as vmlinux'],
    ['an x86 kernel', x86, 'this is an x86 kernel'],
    ['a big-endian one', image(0b011), 'a big-endian kernel'],
    ['broken gzip', gzipSync(image()).subarray(0, 60), 'cannot be unpacked'],
    ["gzip'ed nonsense", gzipSync('nonsense'), 'this is no arm64 kernel'],
  ])('%s is none', (_, bytes, message) => {
    expect(() => imageFacts(join(tree({ Image: bytes }), 'Image'))).toThrow(message)
  })

  test.each(['/dev/zero', tmpdir()])('%s is none, and is not read', path => {
    expect(() => imageFacts(path)).toThrow('not a regular file; expected an arm64 Image')
  })
})

const BUILTIN = 'kernel/drivers/iommu/arm/arm-smmu-v3/arm_smmu_v3.ko\nkernel/drivers/virtio/virtio_pci.ko\n'
const MODULES = ['block/virtio_blk', 'nvme/host/nvme', 'net/virtio_net', 'net/e1000e/e1000e'].map(
  name => `kernel/drivers/${name}.ko.xz`,
)
const DEP = `${MODULES.join(':\n')}:\n`
const installed = (release = RELEASE, dep = DEP) => ({
  [`lib/modules/${release}/modules.dep`]: dep,
  [`lib/modules/${release}/modules.builtin`]: BUILTIN,
})

describe('modules', () => {
  test('beside the image, or as packages have them, they are found', async () => {
    const beside = tree({ Image: image(), ...installed() })
    const packaged = tree({ 'boot/vmlinuz': image(), ...installed() })
    const modules = (root: string) => join(root, 'lib/modules', RELEASE)
    expect(await ownKernel(join(beside, 'Image'), undefined, WORKLOAD)).toMatchObject({
      modules: modules(beside),
      notes: [],
    })
    expect(await ownKernel(join(packaged, 'boot/vmlinuz'), undefined, WORKLOAD)).toMatchObject({
      modules: modules(packaged),
    })
    // Given, by themselves or by what they were installed to.
    const alone = join(tree({ Image: image() }), 'Image')
    expect(await ownKernel(alone, beside, WORKLOAD)).toMatchObject({ modules: modules(beside) })
    expect(await ownKernel(alone, modules(beside), WORKLOAD)).toMatchObject({ modules: modules(beside) })
  })

  test('without any, what there is has to be built in, which is said', async () => {
    const alone = join(tree({ Image: image() }), 'Image')
    expect((await ownKernel(alone, undefined, WORKLOAD)).notes).toEqual([
      expect.stringContaining('no modules are given'),
    ])
    expect((await ownKernel(alone, undefined, { workload: false })).notes).toEqual([])
  })

  test.each([
    ['arm,smmu-v3', 'CONFIG_ARM_SMMU_V3'],
    ['virtio-pci', 'CONFIG_VIRTIO_PCI'],
    ['virtio_blk', 'CONFIG_VIRTIO_BLK'],
    ['nvme%d', 'CONFIG_BLK_DEV_NVME'],
    ['virtio_net', 'CONFIG_VIRTIO_NET'],
    ['e1000e', 'CONFIG_E1000E'],
  ])('without any, an image in which a driver cannot be is refused: no %s', async (word, option) => {
    const bytes = image()
    bytes.fill(0, bytes.indexOf(word), bytes.indexOf(word) + 1)
    const alone = join(tree({ Image: bytes }), 'Image')
    await expect(ownKernel(alone, undefined, WORKLOAD)).rejects.toThrow(
      `no modules are given (lib/modules/${RELEASE} beside it would be found), and these drivers are not built in: ${option}=y`,
    )
    expect((await ownKernel(alone, undefined, { workload: false })).notes).toEqual([])
  })

  test.each<[string, Omit<Needs, 'workload'>, string]>([
    ['devices', { devices: ['igb', 'usb-storage'] }, 'IGB IGBVF USB_XHCI_PCI USB_STORAGE BLK_DEV_SD'],
    ['a share', { share: true }, 'NET_9P_VIRTIO 9P_FS'],
  ])('without any, %s want built-in drivers as well', async (_, needs, options) => {
    const alone = join(tree({ Image: image() }), 'Image')
    const lines = options.split(' ').map(name => `CONFIG_${name}=y`)
    await expect(ownKernel(alone, undefined, { workload: true, ...needs })).rejects.toThrow(
      `these drivers are not built in: ${lines.join(' ')}`,
    )
  })

  test('an image that carries its configuration is known by that', async () => {
    const alone = join(tree({ Image: configured(WORKLOAD_CONFIG) }), 'Image')
    expect((await ownKernel(alone, undefined, WORKLOAD)).release).toBe(RELEASE)
    const without = configured(WORKLOAD_CONFIG.replace('BLK_DEV_NVME=y', 'BLK_DEV_NVME=m'))
    await expect(ownKernel(join(tree({ Image: without }), 'Image'), undefined, WORKLOAD)).rejects.toThrow(
      'these drivers are not built in: CONFIG_BLK_DEV_NVME=y',
    )
  })

  test.each([
    ['a gzip that is none', Buffer.from('IKCFG_STnothingIKCFG_ED')],
    ['no end', Buffer.from('IKCFG_ST')],
    ['the marks the wrong way round', Buffer.from('IKCFG_EDIKCFG_ST')],
    [
      'what unpacks without end',
      Buffer.concat([Buffer.from('IKCFG_ST'), gzipSync(Buffer.alloc(16 << 20)), Buffer.from('IKCFG_ED')]),
    ],
  ])('%s is no configuration', async (_, more) => {
    const alone = join(tree({ Image: Buffer.concat([image(), more]) }), 'Image')
    expect((await ownKernel(alone, undefined, { ...WORKLOAD, successor: 'kexec' })).release).toBe(RELEASE)
  })

  test('devices beside the usual ones want their drivers as well', async () => {
    const beside = join(tree({ Image: image(), ...installed() }), 'Image')
    await expect(ownKernel(beside, undefined, { workload: true, devices: ['igb', 'virtio-blk-mq'] })).rejects.toThrow(
      'no driver for igb, igbvf, built in or as a module: CONFIG_IGB=y CONFIG_IGBVF=y',
    )
  })

  test.each<[string, () => string, string]>([
    [
      'of another release',
      () => join(tree(installed('6.1.0-other')), 'lib/modules/6.1.0-other'),
      `modules of 6.1.0-other, but the kernel is ${RELEASE}`,
    ],
    [
      'installed for another release',
      () => tree({ ...installed('6.1.0-other'), 'lib/modules/6.13/x': '' }),
      `modules of 6.1.0-other, but the kernel is ${RELEASE}`,
    ],
    [
      'that were built for another release, whatever their folder says',
      () =>
        tree({
          ...installed(),
          [`lib/modules/${RELEASE}/${MODULES[0]}`.replace('.xz', '')]: 'vermagic=6.1.0-x SMP ',
          [`lib/modules/${RELEASE}/modules.dep`]: DEP.replaceAll('.xz', ''),
        }),
      `virtio_blk.ko is a module of 6.1.0-x, but the kernel is ${RELEASE}`,
    ],
    ['no folder of modules', () => tree({ x: '' }), 'expected a folder with modules.dep'],
    [
      'without a driver',
      () => tree(installed(RELEASE, DEP.replace(/.*nvme.*\n/, ''))),
      'no driver for nvme, built in or as a module: CONFIG_BLK_DEV_NVME=y',
    ],
  ])('%s: refused', async (_, modules, message) => {
    const alone = join(tree({ Image: image() }), 'Image')
    await expect(ownKernel(alone, modules(), WORKLOAD)).rejects.toThrow(message)
  })
})

test('a release that is a path leads to no modules', async () => {
  const release = '6.12/../../elsewhere'
  const root = tree({ 'images/Image': image(0b010, release), 'images/lib/modules/6.12/x': '' })
  mkdirSync(join(root, 'images/lib/elsewhere'))
  for (const [name, content] of [
    ['modules.dep', DEP],
    ['modules.builtin', BUILTIN],
  ] as const)
    writeFileSync(join(root, 'images/lib/elsewhere', name), content)
  expect(await ownKernel(join(root, 'images/Image'), undefined, WORKLOAD)).toEqual({
    ...{ pageSize: 4096, image: join(root, 'images/Image'), notes: [expect.stringContaining('no modules are given')] },
  })
})

describe('the folder of a build', () => {
  const IMAGE = 'arch/arm64/boot/Image'
  const ALL = { [IMAGE]: image(), 'include/config/kernel.release': `${RELEASE}\n` }

  test('all built in', async () => {
    const root = tree({ ...ALL, 'modules.builtin': `${BUILTIN}${MODULES.join('\n').replaceAll('.xz', '')}\n` })
    expect(await ownKernel(root, undefined, WORKLOAD)).toEqual({
      ...{ release: RELEASE, pageSize: 4096, image: join(root, IMAGE), notes: [] },
    })
  })

  /** With drivers as modules, that were built. @param ending of what modules.order lists */
  const withModules = (ending = 'ko', release = RELEASE) => {
    const paths = MODULES.map(path => path.replace(/\.xz$/, ''))
    const order = paths.map(path => path.replace(/ko$/, ending)).join('\n')
    return {
      ...{ ...ALL, 'modules.builtin': BUILTIN, 'modules.order': `${order}\n` },
      ...Object.fromEntries(paths.map(path => [path, `vermagic=${release} SMP `])),
    }
  }

  test.each(['ko', 'o'])('drivers as modules, which modules.order lists as .%s', async ending => {
    const root = tree(withModules(ending))
    const { modules } = await ownKernel(root, undefined, WORKLOAD)
    expect(modules).toMatch(new RegExp(`/lib/modules/${RELEASE}$`))
  })

  test('a driver that modules.order lists and nobody built', async () => {
    const { [MODULES[1]?.replace('.xz', '') ?? '']: _, ...rest } = withModules() as Record<string, string | Uint8Array>
    await expect(ownKernel(tree(rest), undefined, WORKLOAD)).rejects.toThrow(
      'modules.order has kernel/drivers/nvme/host/nvme.ko, but it is not there: "make modules" is not done',
    )
    expect((await ownKernel(tree(rest), undefined, { workload: false })).release).toBe(RELEASE)
  })

  test('modules that were built for another release', async () => {
    await expect(ownKernel(tree(withModules('o', '6.12.2-mine')), undefined, WORKLOAD)).rejects.toThrow(
      new RegExp(`/virtio_blk.ko is a module of 6.12.2-mine, but the kernel is ${RELEASE}`),
    )
  })

  const BUILT = { ...ALL, 'modules.builtin': `${BUILTIN}${MODULES.join('\n').replaceAll('.xz', '')}\n` }
  const without = (option: string) => `${WORKLOAD_CONFIG}# CONFIG_${option} is not set\n`
  test.each<[string, Needs, Readonly<Record<string, string | Uint8Array>>, string | undefined]>([
    [
      'kexec',
      { ...WORKLOAD, successor: 'kexec' },
      { '.config': without('KEXEC') },
      '--kexec needs what is not built in: CONFIG_KEXEC=y or CONFIG_KEXEC_FILE=y',
    ],
    [
      'slots',
      { ...WORKLOAD, slots: true },
      { '.config': 'CONFIG_PCIEPORTBUS=y\n' },
      '--slots needs what is not built in: CONFIG_HOTPLUG_PCI_PCIE=y',
    ],
    ['kexec by file', { ...WORKLOAD, successor: 'kexec' }, { '.config': 'CONFIG_KEXEC_FILE=y' }, undefined],
    [
      'kdump',
      { ...WORKLOAD, successor: 'kdump' },
      { '.config': 'CONFIG_KEXEC=y\nCONFIG_PROC_VMCORE=y\n' },
      '--kexec kdump needs what is not built in: CONFIG_CRASH_DUMP=y CONFIG_MAGIC_SYSRQ=y',
    ],
    [
      'firmware',
      { ...WORKLOAD, firmware: true },
      { '.config': 'CONFIG_ACPI=y\n' },
      '--firmware needs what is not built in: CONFIG_EFI=y',
    ],
    [
      'functions of a card',
      { ...WORKLOAD, devices: ['igb'] },
      { '.config': 'CONFIG_IGB=y', 'modules.builtin': `${BUILT['modules.builtin']}a/igb.ko\na/igbvf.ko\n` },
      '--device igb needs what is not built in: CONFIG_PCI_IOV=y',
    ],
    [
      'a share',
      { ...WORKLOAD, share: true },
      {},
      'no driver for 9pnet_virtio, 9p, built in or as a module: CONFIG_NET_9P_VIRTIO=y CONFIG_9P_FS=y',
    ],
    ['a share in a shell', { workload: false, share: true }, {}, 'no driver for 9pnet_virtio, 9p,'],
    [
      'what was built counts, not what is configured since',
      { ...WORKLOAD, successor: 'kexec' },
      { '.config': 'CONFIG_KEXEC=y', 'include/config/auto.conf': 'CONFIG_EFI=y' },
      '--kexec needs',
    ],
    [
      'what the image says counts',
      { ...WORKLOAD, successor: 'kexec' },
      { '.config': 'CONFIG_KEXEC=y', [IMAGE]: configured('CONFIG_EFI=y') },
      '--kexec needs',
    ],
    ['nothing known, nothing told', { ...WORKLOAD, successor: 'kexec' }, {}, undefined],
  ])('%s', async (_, needs, files, message) => {
    const found = ownKernel(tree({ ...BUILT, ...files }), undefined, needs)
    if (message === undefined) await expect(found).resolves.toMatchObject({ release: RELEASE })
    else await expect(found).rejects.toThrow(message)
  })

  test('a list of modules that is one word is read in no time', async () => {
    const root = tree({ ...ALL, 'modules.builtin': `${BUILTIN}${'x'.repeat(1 << 20)}` })
    const started = performance.now()
    await expect(ownKernel(root, undefined, WORKLOAD)).rejects.toThrow('no driver for virtio_blk')
    expect(performance.now() - started).toBeLessThan(2000)
  })

  test.each<[string, Readonly<Record<string, string | Uint8Array>>, string]>([
    ['no build', { Makefile: '' }, 'no arch/arm64/boot/Image in it'],
    [
      'a build that is not done',
      { ...ALL, 'include/config/kernel.release': '6.13.0' },
      'the image is 6.12.3-mine, but the tree is 6.13.0',
    ],
    [
      'a release that is a path',
      { [IMAGE]: image(0b010, '%s'), 'include/config/kernel.release': '6.12/../../elsewhere' },
      'include/config/kernel.release is no release: 6.12/../../elsewhere',
    ],
    [
      'a release that is an option',
      { [IMAGE]: image(0b010, '%s'), 'include/config/kernel.release': '--config=x' },
      'include/config/kernel.release is no release: --config=x',
    ],
    [
      'modules that lie elsewhere',
      {
        ...ALL,
        'modules.builtin': `${BUILTIN}${MODULES.join('\n')}\n`,
        'modules.order': 'a/../../../elsewhere/x.ko\n',
      },
      'modules.order leads out of it: a/../../../elsewhere/x.ko',
    ],
    ['no SMMU driver', { ...ALL, 'modules.builtin': '\n' }, 'no SMMUv3 driver built in: CONFIG_ARM_SMMU_V3=y'],
    ['no disks', { ...ALL, 'modules.builtin': BUILTIN }, 'no driver for virtio_blk, nvme, virtio_net, e1000e'],
  ])('%s: refused', async (_, files, message) => {
    await expect(ownKernel(tree(files), undefined, WORKLOAD)).rejects.toThrow(message)
  })
})

describe('a pipe in place of a file is not waited for', () => {
  const IMAGE = 'arch/arm64/boot/Image'
  const MODULE = MODULES[0]?.replace('.xz', '') ?? ''
  const BUILD = {
    [IMAGE]: image(),
    'include/config/kernel.release': `${RELEASE}\n`,
    'modules.builtin': `${BUILTIN}${MODULES.slice(1).join('\n').replaceAll('.xz', '')}\n`,
    'modules.order': `${MODULE}\n`,
    [MODULE]: '',
  }
  const withPipe = (files: Readonly<Record<string, string | Uint8Array>>, name: string) => {
    const root = tree(files)
    rmSync(join(root, name))
    execFileSync('mkfifo', [join(root, name)])
    return root
  }

  test.each(Object.keys(BUILD))('of a build: %s', async name => {
    await expect(ownKernel(withPipe(BUILD, name), undefined, WORKLOAD)).rejects.toThrow(`${name}: not a regular file`)
  })

  test.each(Object.keys(installed()))('beside an image: %s', async name => {
    const root = withPipe({ Image: image(), ...installed() }, name)
    await expect(ownKernel(join(root, 'Image'), undefined, WORKLOAD)).rejects.toThrow(`${name}: not a regular file`)
  })

  test('symbols, and what the guest loads', async () => {
    const root = withPipe({ vmlinux: '' }, 'vmlinux')
    expect(() => loadSymbols(join(root, 'vmlinux'))).toThrow('vmlinux: not a regular file')
    const modules = withPipe({ 'modules.dep': DEP }, 'modules.dep')
    await expect(guestModules(modules)).rejects.toThrow('modules.dep: not a regular file')
    const scratch = tree({ x: '' })
    for (const name of ['x.ko', 'x.ko.gz', 'x.ko.xz']) {
      const path = join(withPipe({ [name]: '' }, name), name)
      await expect(moduleContent(path, { scratch, signal: undefined })).rejects.toThrow('not a regular file')
    }
  })
})

test('a shell, and an initramfs of the user’s own, do without the drivers of the workload', () => {
  expect(needsOf({ kernel: '/k', share: true })).toMatchObject({ workload: true, share: true })
  expect(needsOf({ kernel: '/k', share: true, shell: true })).toMatchObject({ workload: false, share: true })
  expect(needsOf({ kernel: '/k', share: true, initrd: '/i' })).toMatchObject({ workload: false, share: false })
})

test.each(DEVICE_NAMES)('the README has the options that %s needs', name => {
  const row = README.split('\n').find(line => line.startsWith(`| \`--device ${name}\``))
  const options = Object.values(driversOf([name])).map(option => option.replace('CONFIG_', ''))
  for (const option of options) expect(row).toContain(`\`${option}\``)
})

test('a list of modules without end is not read', () => {
  const path = join(tree({ 'modules.dep': '' }), 'modules.dep')
  truncateSync(path, 2 ** 40)
  expect(() => readRegular(path, MAX_LIST)).toThrow(`${2 ** 40} bytes; at most ${MAX_LIST} are read`)
})

test.each([
  ['--kernel FILE', 'this is no arm64 kernel; expected an arm64 Image'],
  ['--kernel /dev/zero', 'not a regular file; expected an arm64 Image'],
  ...['--kernel', '--initrd', '--symbols', '--firmware', '--qemu'].map(option => [
    `${option} PIPE`,
    'not a regular file',
  ]),
  ['--policy PIPE.ts', 'PIPE.ts: not a regular file'],
  ['--faults PIPE.yaml', 'PIPE.yaml'],
  ['--device abacus', "argument 'abacus' is invalid. The workload knows igb, usb-storage, virtio-scsi"],
  ['--kexec --memory 512M', '--kexec: two kernels do not fit into --memory 512M: at least 768M'],
  ['--kexec --el2 pkvm', '--kexec: not with --el2 pkvm, which lets no kernel follow'],
  ['--kernel FOLDER', 'no arch/arm64/boot/Image in it'],
  ['--kernel IMAGE64K --el2 pkvm', 'its pages are of 64 KiB: with --el2 pkvm they have to be of 4 KiB'],
  ['--kernel IMAGE64K --share .', 'these drivers are not built in: CONFIG_NET_9P_VIRTIO=y CONFIG_9P_FS=y'],
  ['--kernel 6.12 --modules FOLDER', "--modules: not with Debian's kernel 6.12"],
])('boot %s answers at once', async (args, message) => {
  const root = tree({ file: 'no kernel', image64k: image(0b110) })
  for (const name of ['PIPE', 'PIPE.ts', 'PIPE.yaml']) execFileSync('mkfifo', [join(root, name)])
  const words = args
    .replace('PIPE', join(root, 'PIPE'))
    .replace('FILE', join(root, 'file'))
    .replace('FOLDER', root)
    .replace('IMAGE64K', join(root, 'image64k'))
    .split(' ')
  const { code, stderr } = await cosim(['boot', ...words])
  expect(stderr).toContain(message)
  // The command line's own messages come with a hint at --help.
  expect(stderr.split('\n').length).toBeLessThanOrEqual(3)
  expect(code).toBe(2)
  expect(readFileSync(join(root, 'file'), 'utf8')).toBe('no kernel')
})

test.each([
  ['--memory abacus', "'abacus' is invalid"],
  ['--memory 64M', '--carveout 64M: more than half of --memory 64M'],
  ['--policy abacus', 'no policy "abacus"'],
  ['--kernel 6.12,6.1 --modules FOLDER', "--modules: not with Debian's kernels"],
])('matrix %s answers at once, and plans nothing', async (args, message) => {
  const root = tree({ file: '' })
  const words = args.replace('FOLDER', root).split(' ')
  const database = join(root, 'matrices')
  const { code, stderr } = await cosim(['matrix', ...words, '--database', database])
  expect(stderr).toContain(message)
  expect(code).toBe(2)
  expect(existsSync(database)).toBe(false)
})

test.each([16_384, 65_536])('pKVM and a kernel with pages of %i bytes', pageSize => {
  expect(() => expectPages(pageSize, [], true)).toThrow(
    `its pages are of ${pageSize / 1024} KiB: with --el2 pkvm they have to be of 4 KiB`,
  )
  expect(() => expectPages(4096, [], true)).not.toThrow()
})

test.each<[number, string[], boolean]>([
  [16_384, ['-cpu', 'cortex-a57'], true],
  [16_384, ['-cpu', 'max', '-cpu', 'cortex-a72,pmu=off'], true],
  [16_384, ['-cpu', 'cortex-a72', '-cpu', 'max'], false],
  [16_384, ['-cpu', 'neoverse-n1'], false],
  [16_384, ['cortex-a57'], false],
  [65_536, ['-cpu', 'cortex-a57'], false],
])('a kernel with pages of %i bytes, and %j', (pageSize, words, refused) => {
  const check = () => expectPages(pageSize, words, false)
  if (refused) expect(check).toThrow(/pages are of 16 KiB, which -cpu cortex-a\d+ does not have/)
  else expect(check).not.toThrow()
})
