// SPDX-License-Identifier: Apache-2.0
/**
 * A kernel of one's own: an arm64 Image, or the tree that it was built in, with the modules that belong to it. What cannot boot
 * with the workload is said here, before there is a machine.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { cachePath } from '../../scripts/setup/cache.ts'
import { moduleContent } from '../../scripts/setup/initramfs.ts'
import { guestModules, MAX_LIST, moduleName } from '../../scripts/setup/modules.ts'
import { readRegular } from '../../scripts/setup/regularFile.ts'
import { type DeviceName, driversOf, SHARE_DRIVERS } from '../machine/devices.ts'
import { IMAGE_MAGIC, isImage, MAX_IMAGE, plainImage } from '../trace/kernelImage.ts'

/** What an image says of itself. */
export interface ImageFacts {
  /** As `uname -r` prints it; undefined: it cannot be read. */
  readonly release?: string
  /** Bytes, 0: it does not say. */
  readonly pageSize: number
}

/** A kernel that may be booted. */
export interface OwnKernel extends ImageFacts {
  readonly image: string
  /** The folder with modules.dep. */
  readonly modules?: string
  /** In the folder of its build. */
  readonly vmlinux?: string
  /** What may go wrong, for people. */
  readonly notes: readonly string[]
}

/** A release is the name of a folder: one with a slash would lead out of lib/modules. */
const RELEASE = /^\d[\x21-\x7e]*$/
const isRelease = (text: string): boolean => RELEASE.test(text) && !text.includes('/')

const expected = `expected an arm64 Image ("${IMAGE_MAGIC}" at byte 56), maybe gzip'ed, or the folder of a kernel build`

/** What files are that are given by mistake, by their first bytes. */
function mistaken(bytes: Buffer): string {
  if (bytes.length === 0) return 'it is empty'
  if (bytes.toString('latin1', 0, 4) === '\x7fELF')
    return 'this is an ELF file, such as vmlinux; arch/arm64/boot/Image is beside it'
  if (bytes.toString('latin1', 0x202, 0x206) === 'HdrS') return 'this is an x86 kernel'
  return 'this is no arm64 kernel'
}

/**
 * The Image in a file, unpacked; undefined: in an EFI zboot image that is compressed otherwise than by gzip.
 * @throws Error naming what was expected: it is no arm64 image
 */
export function imageBytes(path: string): Buffer | undefined {
  const file = statSync(path)
  // Reading a device might never end.
  if (!file.isFile()) throw new Error(`${path}: not a regular file; ${expected}`)
  const { size } = file
  if (size > MAX_IMAGE) throw new Error(`${path}: ${size} bytes; ${expected}`)
  const bytes = plainImage(path, readRegular(path, MAX_IMAGE))
  if (bytes === undefined) return undefined
  if (!isImage(bytes)) {
    throw new Error(`${path}: ${mistaken(bytes)}; ${expected}`)
  }
  return bytes
}

/**
 * Reads what an image says of itself.
 * @throws Error naming what was expected: it is no arm64 image, or a big-endian one
 */
export const imageFacts = (path: string): ImageFacts => factsOf(path, imageBytes(path))

function factsOf(path: string, bytes: Buffer | undefined): ImageFacts {
  if (bytes === undefined) return { pageSize: 0 }
  // Documentation/arch/arm64/booting.rst: bit 0 the byte order, bits 2:1 the page size.
  const flags = bytes.readUInt32LE(24)
  if ((flags & 1) !== 0) throw new Error(`${path}: a big-endian kernel; the workload is little-endian`)
  const pageSize = [0, 4096, 16_384, 65_536][(flags >> 1) & 3] ?? 0
  // Linux's banner. Some kernels have a format for it besides.
  for (let at = bytes.indexOf('Linux version '); at >= 0; at = bytes.indexOf('Linux version ', at + 1)) {
    const [, release] = /^Linux version (\S+) /.exec(bytes.toString('latin1', at, at + 200)) ?? []
    if (release !== undefined && isRelease(release)) return { release, pageSize }
  }
  return { pageSize }
}

/** What a machine asks of its kernel. */
export interface Needs {
  /** False: a shell, or an initramfs of the user's own, which needs none of the drivers. */
  readonly workload: boolean
  /** Of the workload, beside the usual ones. */
  readonly devices?: readonly DeviceName[]
  /** A folder of the host's is mounted. */
  readonly share?: boolean
  /** Devices come and go while it runs. */
  readonly slots?: boolean
  /** How it starts another one. */
  readonly successor?: 'kexec' | 'kdump'
  /** UEFI starts it, and describes the machine by ACPI. */
  readonly firmware?: boolean
}

/** The workload loads it not: its devices would be there first. */
const BUILT_IN = { name: 'arm_smmu_v3', option: 'CONFIG_ARM_SMMU_V3' }

/** Drivers of what the workload needs in any case: as modules.builtin has them, and their options. */
const DRIVERS: Readonly<Record<string, string>> = {
  virtio_pci: 'CONFIG_VIRTIO_PCI',
  virtio_blk: 'CONFIG_VIRTIO_BLK',
  nvme: 'CONFIG_BLK_DEV_NVME',
  virtio_net: 'CONFIG_VIRTIO_NET',
  e1000e: 'CONFIG_E1000E',
}

const driversNeeded = ({ workload, devices = [], share = false }: Needs): [name: string, option: string][] =>
  Object.entries({ ...(workload && { ...DRIVERS, ...driversOf(devices) }), ...(share && SHARE_DRIVERS) })

/** Options of what is no driver, by what needs them: of each list any one will do. */
const FEATURES: readonly {
  readonly option: string
  readonly asked: (needs: Needs) => boolean
  readonly needed: readonly (readonly string[])[]
}[] = [
  {
    option: '--kexec',
    asked: ({ successor }) => successor !== undefined,
    needed: [['CONFIG_KEXEC', 'CONFIG_KEXEC_FILE']],
  },
  {
    option: '--kexec kdump',
    asked: ({ successor }) => successor === 'kdump',
    needed: [['CONFIG_CRASH_DUMP'], ['CONFIG_PROC_VMCORE'], ['CONFIG_MAGIC_SYSRQ']],
  },
  { option: '--firmware', asked: ({ firmware }) => firmware === true, needed: [['CONFIG_EFI'], ['CONFIG_ACPI']] },
  {
    option: '--slots',
    asked: ({ slots }) => slots === true,
    needed: [['CONFIG_PCIEPORTBUS'], ['CONFIG_HOTPLUG_PCI_PCIE']],
  },
  {
    option: '--device igb',
    asked: ({ workload, devices = [] }) => workload && devices.includes('igb'),
    needed: [['CONFIG_PCI_IOV']],
  },
]

/** Options that are set, as .config has them: `y`, `m`, or a value. */
type Config = ReadonlyMap<string, string>

const configOf = (text: string): Config =>
  new Map(Array.from(text.matchAll(/^(CONFIG_\w+)=(.*)$/gm), ([, name = '', value = '']) => [name, value]))

const MAX_CONFIG = 4 << 20

/** The configuration in an image that carries it (CONFIG_IKCONFIG). */
function imageConfig(bytes: Buffer): Config | undefined {
  const [from, end] = ['IKCFG_ST', 'IKCFG_ED'].map(mark => bytes.indexOf(mark)) as [number, number]
  if (from < 0 || end < from) return undefined
  try {
    const packed = bytes.subarray(from + 8, end)
    return configOf(gunzipSync(packed, { maxOutputLength: MAX_CONFIG }).toString('latin1'))
  } catch {
    return undefined // the marks are something else
  }
}

/** @throws Error that names the options that a kernel lacks; what is not known is not told */
function expectFeatures(what: string, config: Config | undefined, needs: Needs): void {
  if (config === undefined) return
  for (const { option, asked, needed } of FEATURES) {
    if (!asked(needs)) continue
    const missing = needed.filter(any => !any.some(name => config.get(name) === 'y'))
    const lines = missing.map(any => any.map(name => `${name}=y`).join(' or '))
    if (missing.length > 0) throw new Error(`${what}: ${option} needs what is not built in: ${lines.join(' ')}`)
  }
}

/** Of a text that has paths in it: modules.dep, modules.builtin or modules.order. */
const moduleNames = (text: string): Set<string> =>
  new Set(
    text
      .split(/[\s:]/)
      .filter(word => /\.ko(?:\.\w+)?$/.test(word))
      .map(moduleName),
  )

/** The text of modules.dep. */
const moduleList = (folder: string): string => readRegular(join(folder, 'modules.dep'), MAX_LIST).toString('utf8')

const textOf = (path: string): string | undefined =>
  existsSync(path) ? readRegular(path, MAX_LIST).toString('utf8') : undefined

/** @throws Error that names the options of the drivers that are neither built in nor modules; what is not known is not told */
function expectDrivers(what: string, builtin: string | undefined, modules: string, needs: Needs): void {
  if (builtin === undefined) return
  if (needs.workload && !moduleNames(builtin).has(BUILT_IN.name))
    throw new Error(`${what}: no SMMUv3 driver built in: ${BUILT_IN.option}=y`)
  const there = moduleNames(`${builtin}\n${modules}`)
  const missing = driversNeeded(needs).filter(([name]) => !there.has(name))
  if (missing.length === 0) return
  const lines = missing.map(([, option]) => `${option}=y`)
  throw new Error(
    `${what}: no driver for ${missing.map(([name]) => name).join(', ')}, built in or as a module: ${lines.join(' ')}`,
  )
}

/**
 * Strings that an image has in it when these drivers are built in, and Debian's, which has them as modules, has not. Those of others are
 * their names. The linker may have made any the end of a longer one.
 */
const STRINGS: Readonly<Record<string, string>> = {
  [BUILT_IN.name]: 'arm,smmu-v3',
  virtio_pci: 'virtio-pci',
  nvme: 'nvme%d',
  xhci_pci: 'xhci_hcd',
  usb_storage: 'usb-storage',
  sd_mod: 'scsi_disk',
  '9p': 'v9fs_inode_cache',
}

/** @throws Error that names the options of drivers that an image without modules lacks, as far as that can be told */
function expectBuiltIn(path: string, bytes: Buffer, config: Config | undefined, where: string, needs: Needs): void {
  const wanted = [...(needs.workload ? [[BUILT_IN.name, BUILT_IN.option] as const] : []), ...driversNeeded(needs)]
  const missing = wanted.filter(([name, option]) =>
    config === undefined ? !bytes.includes(`${STRINGS[name] ?? name}\0`) : config.get(option) !== 'y',
  )
  if (missing.length === 0) return
  const lines = missing.map(([, option]) => `${option}=y`).join(' ')
  throw new Error(`${path}: no modules are given${where}, and these drivers are not built in: ${lines}`)
}

/**
 * The modules folder of a release.
 * @param given the folder itself, or what it was installed to (INSTALL_MOD_PATH)
 * @throws Error when it is none, or of another release
 */
async function modulesFolder(given: string, release: string | undefined): Promise<string> {
  const installed = release === undefined ? undefined : join(given, 'lib/modules', release)
  const folder = resolve(installed !== undefined && existsSync(installed) ? installed : given)
  const others = installed === undefined || folder !== resolve(given) ? [] : releasesIn(join(given, 'lib/modules'))
  if (others.length > 0)
    throw new Error(`--modules ${given}: modules of ${others.join(', ')}, but the kernel is ${release}`)
  if (!existsSync(join(folder, 'modules.dep')))
    throw new Error(
      `--modules ${given}: expected a folder with modules.dep, as lib/modules/${release ?? 'RELEASE'} that "make modules_install" fills`,
    )
  const own = basename(folder)
  if (release !== undefined && /^\d+\.\d+/.test(own) && own !== release) {
    throw new Error(`--modules ${given}: modules of ${own}, but the kernel is ${release}`)
  }
  await expectRelease(`--modules ${given}`, folder, release)
  return folder
}

/** @throws Error when a module of the folder, by what it says itself, is of another release */
async function expectRelease(what: string, folder: string, release: string | undefined): Promise<void> {
  const [first] = await guestModules(folder)
  const built = first === undefined ? undefined : await moduleRelease(join(folder, first))
  if (release !== undefined && built !== undefined && built !== release)
    throw new Error(`${what}: ${first} is a module of ${built}, but the kernel is ${release}`)
}

/** The releases that there are modules of; none where there is no such folder. */
const releasesIn = (folder: string): string[] =>
  existsSync(folder) ? readdirSync(folder).filter(name => existsSync(join(folder, name, 'modules.dep'))) : []

/** The kernel that a module was built for, by its vermagic; undefined: it is not there, or does not say. */
async function moduleRelease(path: string): Promise<string | undefined> {
  if (!existsSync(path)) return undefined
  const scratch = mkdtempSync(join(tmpdir(), 'module-'))
  try {
    const bytes = Buffer.from(await moduleContent(path, { scratch, signal: undefined }))
    const at = bytes.indexOf('vermagic=')
    return at < 0 ? undefined : /^vermagic=(\S+) /.exec(bytes.toString('latin1', at, at + 200))?.[1]
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** Where the modules of an image may lie that nobody gave: beside it, or as Debian's packages have them. */
const besides = (image: string, release: string): string[] =>
  ['.', '..'].map(up => resolve(dirname(image), up, 'lib/modules', release))

/** Folders that a machine with this kernel is made of, for a process that has to be granted them. */
export function kernelFolders(kernel: string, modules: string | undefined): string[] {
  const found = [resolve(kernel), ...(modules === undefined ? [] : [resolve(modules)])]
  return [...found, ...['.', '..'].map(up => resolve(dirname(kernel), up, 'lib/modules')).filter(existsSync)]
}

/**
 * A kernel by an image or the folder of its build.
 * @param modules from the command line
 * @throws Error naming what was expected
 */
export async function ownKernel(kernel: string, modules: string | undefined, needs: Needs): Promise<OwnKernel> {
  if (statSync(kernel).isDirectory()) return buildTree(kernel, modules, needs)
  const bytes = imageBytes(kernel)
  const facts = factsOf(kernel, bytes)
  const { release } = facts
  const config = bytes && imageConfig(bytes)
  expectFeatures(kernel, config, needs)
  const found =
    modules === undefined
      ? release === undefined
        ? undefined
        : besides(kernel, release).find(folder => existsSync(join(folder, 'modules.dep')))
      : await modulesFolder(modules, release)
  if (found === undefined) {
    const where = release === undefined ? '' : ` (lib/modules/${release} beside it would be found)`
    if (bytes !== undefined) expectBuiltIn(kernel, bytes, config, where, needs)
    const note = `${kernel}: no modules are given${where}: the workload has the drivers that are built in`
    return { ...facts, image: kernel, notes: needs.workload ? [note] : [] }
  }
  expectDrivers(kernel, textOf(join(found, 'modules.builtin')), moduleList(found), needs)
  return { ...facts, image: kernel, modules: found, notes: [] }
}

/** A tree in which a kernel was built: its image, and its modules where they were built. */
async function buildTree(tree: string, modules: string | undefined, needs: Needs): Promise<OwnKernel> {
  const what = `--kernel ${tree}`
  const image = ['Image', 'Image.gz'].map(name => join(tree, 'arch/arm64/boot', name)).find(existsSync)
  if (image === undefined)
    throw new Error(`${what}: no arch/arm64/boot/Image in it: expected the folder of an arm64 kernel build`)
  const bytes = imageBytes(image)
  const facts = factsOf(image, bytes)
  const release = textOf(join(tree, 'include/config/kernel.release'))?.trim() ?? facts.release
  if (release !== undefined && !isRelease(release))
    throw new Error(`${what}: include/config/kernel.release is no release: ${release.slice(0, 100)}`)
  if (facts.release !== undefined && release !== facts.release)
    throw new Error(`${what}: the image is ${facts.release}, but the tree is ${release}: "make" is not done`)
  expectFeatures(what, (bytes && imageConfig(bytes)) ?? treeConfig(tree), needs)
  const elf = join(tree, 'vmlinux')
  const built = { ...facts, image, ...(existsSync(elf) && { vmlinux: elf }), notes: [] }
  if (modules !== undefined) {
    const found = await modulesFolder(modules, release)
    expectDrivers(image, textOf(join(found, 'modules.builtin')), moduleList(found), needs)
    return { ...built, modules: found }
  }
  // Linux lists the objects of modules from 6.2 on, the modules themselves before.
  const order = (textOf(join(tree, 'modules.order')) ?? '')
    .split('\n')
    .map(line => line.replace(/\.o$/, '.ko'))
    .filter(line => line.endsWith('.ko'))
  const builtin = textOf(join(tree, 'modules.builtin'))
  expectDrivers(what, builtin, order.join('\n'), needs)
  const outside = order.find(line => line.split('/').includes('..'))
  if (outside !== undefined) throw new Error(`${what}: modules.order leads out of it: ${outside.slice(0, 100)}`)
  const needed = new Set(driversNeeded(needs).map(([name]) => name))
  const objects = order.filter(line => existsSync(join(tree, line)))
  const absent = order.find(line => needed.has(moduleName(line)) && !objects.includes(line))
  if (absent !== undefined)
    throw new Error(`${what}: modules.order has ${absent}, but it is not there: "make modules" is not done`)
  if (objects.length === 0 || release === undefined) return built
  const found = await staged(tree, release, objects)
  await expectRelease(what, found, release)
  return { ...built, modules: found }
}

/** What a tree was built with; it may be configured otherwise by now. */
function treeConfig(tree: string): Config | undefined {
  const text = textOf(join(tree, 'include/config/auto.conf')) ?? textOf(join(tree, '.config'))
  return text === undefined ? undefined : configOf(text)
}

/** As "make modules_install" would have it, with links to where the modules were built; kept as long as they are the same. */
async function staged(tree: string, release: string, built: readonly string[]): Promise<string> {
  const hash = createHash('sha256').update(resolve(tree)).update(release)
  for (const path of built) {
    const file = statSync(join(tree, path))
    // depmod would wait for a pipe.
    if (!file.isFile()) throw new Error(`--kernel ${tree}: ${path}: not a regular file`)
    const { size, mtimeMs } = file
    hash.update(`${path} ${size} ${mtimeMs}\n`)
  }
  const kept = cachePath('trees', hash.digest('hex').slice(0, 20))
  const folder = join('lib/modules', release)
  if (existsSync(join(kept, folder, 'modules.dep'))) return join(kept, folder)
  mkdirSync(cachePath('trees'), { recursive: true })
  const made = mkdtempSync(`${kept}.`)
  try {
    for (const path of built) {
      const place = join(made, folder, 'kernel', path)
      mkdirSync(dirname(place), { recursive: true })
      symlinkSync(resolve(tree, path), place)
    }
    await promisify(execFile)('/sbin/depmod', ['-b', made, release])
    renameSync(made, kept)
  } catch (error) {
    rmSync(made, { recursive: true, force: true })
    if (!existsSync(join(kept, folder, 'modules.dep'))) throw error
  }
  return join(kept, folder)
}
