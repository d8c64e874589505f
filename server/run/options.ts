// SPDX-License-Identifier: Apache-2.0
/** Options of a machine, the same for `boot`, the API and fault sessions. */
import { accessSync, constants } from 'node:fs'
import type { SavedMachine, SessionOptions } from '../control/session.ts'
import type { DeviceName } from '../machine/devices.ts'
import type { RamPool } from '../machine/guestRam.ts'
import type { SharedFolder } from '../machine/qemu.ts'
import { parseSize } from '../machine/scratch.ts'
import type { Workload, WorkloadSize } from '../machine/workload.ts'
import { isSeries, KERNELS, qemuPath } from './files.ts'
import type { SuccessorStart } from './successor.ts'

/** Defaults. Sizes in QEMU's notation. */
export const DEFAULTS = {
  policy: 'pkvm',
  until: 'nested',
  granule: 4096,
  kernel: '6.12',
  memory: '1G',
  carveout: '64M',
  smp: 1,
  ramDir: 'memory',
  transport: 'auto',
} as const

/** Where guest RAM is that has to be a file with a name: its server is another process, or cannot map it. */
export const RAM_FOLDER = '/dev/shm'

/** The folder that `--ram-dir` names. */
export const ramFolder = (ramDir: string): string => (ramDir === DEFAULTS.ramDir ? RAM_FOLDER : ramDir)

export interface RunOptions {
  /** Guest RAM. */
  readonly memory: string
  /** Hypervisor memory at the top of it; 0: none. */
  readonly carveout: string
  readonly smp: number
  /** Each in front of a root complex of its own; default: one. */
  readonly smmus?: number
  /** Memory-backed folder for the file of guest RAM; `memory`: it is in none, where the server can map it. */
  readonly ramDir: string
  /** The kernel's command line. */
  readonly commandLine: (workload: Workload) => string
  /** Absent: a seed of its own, and the usual size. */
  readonly workload?: { readonly seed: string; readonly size: WorkloadSize }
  /** Whether there is an NVMe controller, which QEMU cannot save; default: there is. */
  readonly nvme?: boolean
  /** After the rest of its workload the guest uses all devices at a time, for so many seconds; default: it does not. */
  readonly load?: number
  /** The guest starts the same kernel once more; default: it does not. */
  readonly successor?: SuccessorStart
  /** Root ports without a device, for those that come later; default: none. */
  readonly slots?: number
  /** Of the workload, beside the usual ones. */
  readonly devices?: readonly DeviceName[]
  /** Whether QEMU is confined; default: it is. */
  readonly sandbox?: boolean
  /** Whether the guest has an agent, on a second serial port; default: it has none. */
  readonly agent?: boolean
  /** A folder of the host for the guest. */
  readonly share?: SharedFolder
  /** Words for QEMU's command line. */
  readonly qemuArgs?: readonly string[]
  /** Absent: the same machine without the server. */
  readonly policy?: Omit<NonNullable<SessionOptions['policy']>, 'carveout'>
  /** gdb can attach from the start; `port` of the loopback interface, or a Unix socket. */
  readonly gdb?: { readonly port?: number }
  /** Goes on where a machine of the same description was saved, instead of booting. */
  readonly restore?: SavedMachine
  /** Where RAM that is mapped comes from if it can; default: it is made anew. */
  readonly pool?: RamPool
  /** Folder for the files of the run; default: a new one in the runs folder. */
  readonly folder?: string
  /** Told when older runs were removed to make room for it. */
  readonly say?: (line: string) => void
}

/** What the guest does (scripts/guest/README.md). */
export interface GuestTask {
  /** `shell`, `workload`, `remote`, or `reboot:N`. */
  readonly run: string
  /** Timed reads of each disk; 0: none. */
  readonly bench: number
  /** Further words. */
  readonly append?: string
}

/** The command line of a guest that does its task and powers off. */
export const commandLine =
  ({ run, bench, append }: GuestTask) =>
  (workload: Workload): string =>
    ['console=ttyAMA0', 'panic=-1', `cosim.run=${run}`, workload.append(bench), ...(append ? [append] : [])].join(' ')

/**
 * Checks that the sizes fit each other.
 * @param dashes prefix of option names in messages: `--` for the command line
 * @throws Error that names the option
 */
export function checkSizes({ memory, carveout }: Pick<RunOptions, 'memory' | 'carveout'>, dashes = ''): void {
  if (carveout === '0') return
  if (parseSize(carveout) % (2 << 20) !== 0) throw new Error(`${dashes}carveout ${carveout}: not a multiple of 2M`)
  if (parseSize(carveout) * 2 > parseSize(memory)) {
    throw new Error(`${dashes}carveout ${carveout}: more than half of ${dashes}memory ${memory}`)
  }
}

/** Checks that files given on the command line can be read. @throws Error that names the option */
export function checkFiles(files: { readonly kernel: string; readonly initrd?: string; readonly qemu?: string }): void {
  const { kernel, initrd, qemu } = files
  for (const [option, file] of [
    ['--kernel', isSeries(kernel) ? undefined : kernel],
    ['--initrd', initrd],
    ['--qemu', qemuPath(qemu)],
  ]) {
    if (file === undefined) continue
    try {
      accessSync(file, constants.R_OK)
    } catch {
      const hint = option === '--kernel' ? ` (or one of Debian's series: ${KERNELS.join(', ')})` : ''
      throw new Error(`${option} ${file}: no such file, or not readable${hint}`)
    }
  }
}
