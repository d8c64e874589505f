// SPDX-License-Identifier: Apache-2.0
/** A kernel that the guest's first kernel starts by kexec, and that does the workload once more. */
import { readFileSync } from 'node:fs'
import type { GuestEvent } from '../machine/guestEvents.ts'
import type { Workload, WorkloadEntry } from '../machine/workload.ts'
import type { MachineFiles } from './files.ts'
import { imageBytes } from './ownKernel.ts'

/** How it is started: when the workload is done, or by a panic after that. */
export const SUCCESSORS = ['kexec', 'kdump'] as const
export type SuccessorStart = (typeof SUCCESSORS)[number]

/** Memory that the first kernel keeps for the one after a panic. */
export const KDUMP_COMMAND_LINE = 'crashkernel=256M'

/** RAM that this wants: the successor lies from 256 MiB on (scripts/guest/workload.sh), or in what is kept for it. */
export const KEXEC_MEMORY = 768 << 20

/** What the guest panics about when it was told to (drivers/tty/sysrq.c). */
const ASKED_PANIC = 'sysrq triggered crash'

/** The second kernel of a run. */
export interface SuccessorReport {
  readonly start: SuccessorStart
  /** As it calls itself; null: it never reached its userspace. */
  readonly kernel: string | null
  /** From what the first one said last until then, ms. */
  readonly bootMs: number | null
  /** Bytes of the first kernel's memory that it can read (/proc/vmcore); absent: it is none that looks at a crash. */
  readonly vmcore?: number
}

/** Makes the same kernel the guest's successor. @throws Error when its image cannot be unpacked */
export function addSuccessor(workload: Workload, { kernel, initrd }: Pick<MachineFiles, 'kernel' | 'initrd'>): void {
  const image = imageBytes(kernel.image)
  if (image === undefined)
    throw new Error(`${kernel.image}: kexec needs an Image, and this EFI zboot image cannot be unpacked here`)
  workload.addSuccessor(image, readFileSync(initrd))
}

/** Checks the workload of both kernels. */
export class BothWorkloads {
  readonly #workload: Workload
  readonly #start: SuccessorStart
  #first: readonly WorkloadEntry[] | undefined
  /** Where the successor's events begin. */
  #from = 0
  /** When the first kernel said that it starts the other one, ms of `performance.now()`. */
  #left: number | undefined
  #bootMs: number | null = null

  constructor(workload: Workload, start: SuccessorStart) {
    this.#workload = workload
    this.#start = start
  }

  /** Whether a panic for this reason is the one that starts the successor. */
  asked(reason: string): boolean {
    return this.#start === 'kdump' && this.#left !== undefined && this.#first === undefined && reason === ASKED_PANIC
  }

  /** The last event is new. That of the successor's start comes before it writes to a disk. */
  added(events: readonly GuestEvent[]): void {
    const last = events.at(-1)
    if (last?.event === 'successor' && last.ok) this.#left ??= performance.now()
    if (this.#first !== undefined || last?.event !== 'userspace' || this.#left === undefined) return
    this.#bootMs = Math.round(performance.now() - this.#left)
    this.#from = events.length - 1
    this.#first = this.#check(events.slice(0, -1))
    this.#workload.again()
  }

  /** After the machine has ended: checks of both, the successor's last. */
  entries(events: readonly GuestEvent[]): WorkloadEntry[] {
    const first = this.#first ?? this.#check(events)
    const second = this.#workload.check(this.#first === undefined ? [] : events.slice(this.#from))
    return [...first, ...second.map(entry => ({ ...entry, successor: true as const }))]
  }

  report(events: readonly GuestEvent[]): SuccessorReport {
    const own = this.#first === undefined ? [] : events.slice(this.#from)
    const kernel = own[0]?.kernel
    const bytes = own.find(({ event }) => event === 'vmcore')?.bytes
    return {
      start: this.#start,
      kernel: kernel === undefined ? null : String(kernel),
      bootMs: this.#bootMs,
      ...(bytes !== undefined && { vmcore: bytes }),
    }
  }

  #check(events: readonly GuestEvent[]): WorkloadEntry[] {
    return [...this.#workload.check(events), this.#workload.checkSuccessor(events)]
  }
}
