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
  #first: readonly WorkloadEntry[] | undefined
  /** Where the successor's events begin. */
  #from = 0

  constructor(workload: Workload) {
    this.#workload = workload
  }

  /** The last event is new. That of the successor's start comes before it writes to a disk. */
  added(events: readonly GuestEvent[]): void {
    if (this.#first !== undefined || events.at(-1)?.event !== 'userspace') return
    if (events.filter(({ event }) => event === 'userspace').length < 2) return
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

  #check(events: readonly GuestEvent[]): WorkloadEntry[] {
    return [...this.#workload.check(events), this.#workload.checkSuccessor(events)]
  }
}
