// SPDX-License-Identifier: Apache-2.0
/** The files that a machine is made of: QEMU, kernel, initramfs. */
import {
  ensureFirmware,
  ensureInitramfs,
  ensureKernel,
  ensureQemu,
  type GuestProgram,
  isQemuVersion,
  KERNEL_SERIES,
  type KernelSeries,
  type OwnQemu,
  ownQemu,
  qemuVersion,
  type SetupOptions,
} from '../../scripts/setup/index.ts'
import { driversOf, SHARE_DRIVERS } from '../machine/devices.ts'
import { type Needs, ownKernel } from './ownKernel.ts'

/** Debian's kernels that set-up can fetch; anything else is a file. */
export const KERNELS = KERNEL_SERIES

export const isSeries = (text: string): text is KernelSeries => (KERNELS as readonly string[]).includes(text)

/** The file or folder that a QEMU was given as; undefined: it was not, or as a version of Debian's. */
export const qemuPath = (qemu: string | undefined): string | undefined =>
  qemu !== undefined && isQemuVersion(qemu) ? undefined : qemu

/** A QEMU that was given as a version or as source, built once for many machines: a tree of the user's own may change while they run. */
export async function builtQemu(
  { qemu }: { readonly qemu?: string },
  signal: AbortSignal,
): Promise<{ readonly qemu?: string }> {
  return qemu === undefined ? {} : { qemu: await ensureQemu({ qemu, signal }) }
}

/**
 * What a report says of the QEMU that ran.
 * @param version as it told the server; undefined: there was none
 */
export async function qemuThatRan(
  binary: string,
  version: string | undefined,
): Promise<{ readonly qemu?: string; readonly qemuOwn?: OwnQemu }> {
  const [qemu, qemuOwn] = await Promise.all([version ?? qemuVersion(binary), ownQemu(binary)])
  return { ...(qemu !== undefined && { qemu }), ...(qemuOwn && { qemuOwn }) }
}

/** A kernel that is booted. */
export interface KernelFile {
  readonly version: string
  readonly image: string
  /** Bytes; absent: not known. */
  readonly pageSize?: number
  /** What its symbols are read from; absent: the image. */
  readonly symbols?: string
}

export interface MachineFiles {
  readonly qemu: string
  readonly kernel: KernelFile
  readonly initrd: string
  readonly firmware?: string
}

const PAGES_4K = 4096
const PAGES_16K = 16_384

/** Of Debian's, bytes. */
export const seriesPageSize = (series: KernelSeries): number => (series.endsWith('-16k') ? PAGES_16K : PAGES_4K)

/** What a kernel needs of QEMU: the usual CPU has no pages of 16 KiB. What is given later counts. */
export const kernelArgs = ({ pageSize }: MachineFiles['kernel']): readonly string[] =>
  pageSize === PAGES_16K ? ['-cpu', 'max'] : []

/** QEMU's CPUs for 64 bits with ID_AA64MMFR0_EL1.TGran16 = 0. */
const WITHOUT_16K = ['cortex-a53', 'cortex-a57', 'cortex-a72', 'a64fx']

/**
 * A kernel on a CPU without its pages says nothing at all.
 * @param given the user's words for QEMU, the last of which counts
 * @param pkvm it is to run as pKVM
 * @throws Error naming the CPU, or the page size that pKVM is followed with
 */
export function expectPages(pageSize: number, given: readonly string[], pkvm: boolean): void {
  if (pkvm && pageSize > PAGES_4K)
    throw new Error(`its pages are of ${pageSize >> 10} KiB: with --el2 pkvm they have to be of 4 KiB`)
  const at = given.findLastIndex(word => /^--?cpu$/.test(word))
  const cpu = at < 0 ? '' : (given[at + 1]?.split(',')[0] ?? '')
  if (pageSize === PAGES_16K && WITHOUT_16K.includes(cpu))
    throw new Error(`its pages are of 16 KiB, which -cpu ${cpu} does not have (-cpu max has all)`)
}

/** Which files to use: a kernel of Debian's or an image; absent ones come from set-up. */
export interface WantedFiles extends Pick<Needs, 'devices' | 'share' | 'slots' | 'successor'> {
  readonly kernel: string
  /** Folder with the modules of a kernel of one's own; absent: they are looked for beside it. */
  readonly modules?: string
  readonly initrd?: string
  /** A version that set-up knows, a binary with the patches, or a folder with QEMU's source. */
  readonly qemu?: string
  /** UEFI that starts the kernel: Debian's, or a file. */
  readonly firmware?: true | string
  /** File with the kernel's symbols; absent: the vmlinux in the folder of its build, or the image. */
  readonly symbols?: string
  /** With the program that runs a protected VM and attacks it. */
  readonly attack?: boolean
  /** With the agent that carries out what the host asks for. */
  readonly agent?: boolean
  /** The guest runs a shell instead of the workload: it need not have the drivers of its devices. */
  readonly shell?: boolean
}

/** Fetches and builds what is missing. */
export async function machineFiles(wanted: WantedFiles, setup: Omit<SetupOptions, 'kernel'>): Promise<MachineFiles> {
  const { kernel: name } = wanted
  const qemu = await ensureQemu({ ...setup, ...(wanted.qemu !== undefined && { qemu: wanted.qemu }) })
  const { version, image, modules, pageSize, vmlinux } = isSeries(name)
    ? { ...(await ensureKernel({ ...setup, kernel: name })), pageSize: seriesPageSize(name), vmlinux: undefined }
    : await own(wanted)
  const programs: GuestProgram[] = []
  if (wanted.attack) programs.push('attack')
  if (wanted.agent) programs.push('agent')
  const extraModules = [
    ...(wanted.share ? Object.keys(SHARE_DRIVERS) : []),
    ...Object.keys(driversOf(wanted.devices ?? [])),
  ]
  const kexec = wanted.successor !== undefined
  const initrd = wanted.initrd ?? (await ensureInitramfs({ ...setup, modules, programs, extraModules, kexec }))
  const firmware = wanted.firmware === true ? await ensureFirmware(setup) : wanted.firmware
  const symbols = wanted.symbols ?? vmlinux
  return {
    qemu,
    kernel: { version, image, ...(symbols && { symbols }), ...(pageSize !== undefined && { pageSize }) },
    initrd,
    ...(firmware !== undefined && { firmware }),
  }
}

/** What is asked of a kernel: an initramfs of the user's own may do without all that the workload's needs. */
export function needsOf({ initrd, shell, devices, share, slots, successor, firmware }: WantedFiles): Needs {
  const usual = initrd === undefined
  return {
    workload: usual && !shell,
    ...(devices && { devices }),
    share: usual && share === true,
    ...(slots && { slots }),
    ...(successor && { successor }),
    firmware: firmware !== undefined,
  }
}

async function own(wanted: WantedFiles) {
  const { kernel } = wanted
  const found = await ownKernel(kernel, wanted.modules, needsOf(wanted))
  const { release = kernel, image, modules: folder, pageSize, vmlinux } = found
  return { version: release, image, modules: folder, pageSize, vmlinux }
}
