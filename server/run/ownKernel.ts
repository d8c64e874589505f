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
import { cachePath } from '../../scripts/setup/cache.ts'
import { moduleContent } from '../../scripts/setup/initramfs.ts'
import { guestModules, MAX_LIST, moduleName } from '../../scripts/setup/modules.ts'
import { readRegular } from '../../scripts/setup/regularFile.ts'
import { type DeviceName, driversOf } from '../machine/devices.ts'
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
export function imageFacts(path: string): ImageFacts {
  const bytes = imageBytes(path)
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
function expectDrivers(
  what: string,
  builtin: string | undefined,
  modules: string,
  devices: readonly DeviceName[],
): void {
  if (builtin === undefined) return
  if (!moduleNames(builtin).has(BUILT_IN.name))
    throw new Error(`${what}: no SMMUv3 driver built in: ${BUILT_IN.option}=y`)
  const there = moduleNames(`${builtin}\n${modules}`)
  const missing = Object.entries({ ...DRIVERS, ...driversOf(devices) }).filter(
    ([name]) => !there.has(name.replaceAll('-', '_')),
  )
  if (missing.length === 0) return
  const lines = missing.map(([, option]) => `${option}=y`)
  throw new Error(
    `${what}: no driver for ${missing.map(([name]) => name).join(', ')}, built in or as a module: ${lines.join(' ')}`,
  )
}

/** Words that an image has in it when these drivers are built in, and Debian's, which has them as modules, has not. */
const BUILT_IN_WORDS: Readonly<Record<string, string>> = {
  'arm,smmu-v3': BUILT_IN.option,
  virtio_blk: 'CONFIG_VIRTIO_BLK',
  e1000e: 'CONFIG_E1000E',
}

/** @throws Error that names the options of drivers that an image without modules lacks, as far as that can be told */
function expectBuiltIn(path: string, where: string): void {
  const bytes = imageBytes(path)
  if (bytes === undefined) return
  const missing = Object.entries(BUILT_IN_WORDS).filter(([word]) => !bytes.includes(word))
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
  const [first] = await guestModules(folder)
  const built = first === undefined ? undefined : await moduleRelease(join(folder, first))
  if (release !== undefined && built !== undefined && built !== release)
    throw new Error(`--modules ${given}: ${first} is a module of ${built}, but the kernel is ${release}`)
  return folder
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
 * @param workload false: an initramfs of the user's own, which needs no modules
 * @param devices of the workload, beside the usual ones
 * @throws Error naming what was expected
 */
export async function ownKernel(
  kernel: string,
  modules: string | undefined,
  workload: boolean,
  devices: readonly DeviceName[] = [],
): Promise<OwnKernel> {
  if (statSync(kernel).isDirectory()) return buildTree(kernel, modules, workload, devices)
  const facts = imageFacts(kernel)
  const { release } = facts
  const found =
    modules === undefined
      ? release === undefined
        ? undefined
        : besides(kernel, release).find(folder => existsSync(join(folder, 'modules.dep')))
      : await modulesFolder(modules, release)
  if (found === undefined) {
    const where = release === undefined ? '' : ` (lib/modules/${release} beside it would be found)`
    if (workload) expectBuiltIn(kernel, where)
    const note = `${kernel}: no modules are given${where}: the workload has the drivers that are built in`
    return { ...facts, image: kernel, notes: workload ? [note] : [] }
  }
  if (workload) expectDrivers(kernel, textOf(join(found, 'modules.builtin')), moduleList(found), devices)
  return { ...facts, image: kernel, modules: found, notes: [] }
}

/** A tree in which a kernel was built: its image, and its modules where they were built. */
async function buildTree(
  tree: string,
  modules: string | undefined,
  workload: boolean,
  devices: readonly DeviceName[],
): Promise<OwnKernel> {
  const image = ['Image', 'Image.gz'].map(name => join(tree, 'arch/arm64/boot', name)).find(existsSync)
  if (image === undefined)
    throw new Error(`--kernel ${tree}: no arch/arm64/boot/Image in it: expected the folder of an arm64 kernel build`)
  const facts = imageFacts(image)
  const release = textOf(join(tree, 'include/config/kernel.release'))?.trim() ?? facts.release
  if (release !== undefined && !isRelease(release))
    throw new Error(`--kernel ${tree}: include/config/kernel.release is no release: ${release.slice(0, 100)}`)
  if (facts.release !== undefined && release !== facts.release)
    throw new Error(`--kernel ${tree}: the image is ${facts.release}, but the tree is ${release}: "make" is not done`)
  const elf = join(tree, 'vmlinux')
  const built = { ...facts, image, ...(existsSync(elf) && { vmlinux: elf }), notes: [] }
  if (modules !== undefined) {
    const found = await modulesFolder(modules, release)
    if (workload) expectDrivers(image, textOf(join(found, 'modules.builtin')), moduleList(found), devices)
    return { ...built, modules: found }
  }
  // Linux lists the objects of modules from 6.2 on, the modules themselves before.
  const order = (textOf(join(tree, 'modules.order')) ?? '').split('\n').map(line => line.replace(/\.o$/, '.ko'))
  if (workload) expectDrivers(`--kernel ${tree}`, textOf(join(tree, 'modules.builtin')), order.join('\n'), devices)
  const outside = order.find(line => line.split('/').includes('..'))
  if (outside !== undefined)
    throw new Error(`--kernel ${tree}: modules.order leads out of it: ${outside.slice(0, 100)}`)
  const objects = order.filter(line => line.endsWith('.ko') && existsSync(join(tree, line)))
  if (objects.length === 0 || release === undefined) return built
  return { ...built, modules: await staged(tree, release, objects) }
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
