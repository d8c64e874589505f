// SPDX-License-Identifier: Apache-2.0
/// <reference types="node" />
/**
 * `smmu-cosim/test`: scenarios on real machines, as tests of vitest. README.md has all of it.
 *
 *     import { expect, test } from 'smmu-cosim/test'
 *
 *     test('a page donated under DMA ends in F_TRANSLATION', async ({ machine }) => {
 *       const m = await machine({ devices: ['edu'] })
 *       const page = await m.guest.allocate(4096)
 *       await m.hyp.donate(page, { vm: 1 })
 *       await m.device('edu').dmaRead(page)
 *       await expect(m.events).toContainEvent({ type: 'F_TRANSLATION', s2: true, ipa: page })
 *     })
 */
import { test as base, expect } from 'vitest'
import { type Failure, folderOf, repeatCommand } from './failure.ts'
import { type Artefacts, Machine } from './machine.ts'
import { type MachineMatchers, matchers } from './matchers.ts'
import type { MachineOptions } from './options.ts'

declare module 'vitest' {
  // The parameters are vitest's.
  interface Matchers<R extends void | Promise<void>, T> extends MachineMatchers {}

  interface TaskMeta {
    /** What the machines of a failed test left behind. */
    cosim?: Failure
  }
}

expect.extend(matchers)

/** What a test is given. */
export interface Fixtures {
  /** Starts a machine; a test may have several. They end with the test. */
  readonly machine: (options?: MachineOptions) => Promise<Machine>
}

/** vitest's `test`, whose functions are given `machine`. */
export const test = base.extend<Fixtures>({
  machine: async ({ task, signal }, use) => {
    const giveBack = holdSignals()
    const starting: Promise<Machine>[] = []
    await use(options => {
      const machine = Machine.start(options, signal)
      starting.push(machine)
      return machine
    })
    // Also one that the test did not wait for, because its time was up or somebody ended it.
    const machines = (await Promise.allSettled(starting)).flatMap(it => (it.status === 'fulfilled' ? it.value : []))
    const known = task.result?.state === 'fail'
    const unnoticed = machines.flatMap(machine => machine.unnoticed ?? [])
    const failed = known || unnoticed.length > 0
    const which = { file: task.file.filepath, name: fullName(task) }
    const root = process.cwd()
    const left: Artefacts[] = []
    for (const [i, machine] of machines.entries()) {
      const artefacts = await machine.close(failed ? folderOf(root, which, i) : undefined)
      if (artefacts !== undefined) left.push(artefacts)
    }
    giveBack()
    const [first] = left
    if (first !== undefined) task.meta.cosim = { repeat: repeatCommand(root, which, first.seed), machines: left }
    if (unnoticed.length > 0 && !known)
      throw new Error(`the machine went wrong, and the test did not notice: ${unnoticed.join('; ')}`)
  },
})

/**
 * Ctrl-C in a terminal, and timeout(1), reach this process as well: it ends its machines when vitest says that the run is over.
 * @returns gives the signals back
 */
function holdSignals(): () => void {
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  const hold = () => {}
  for (const name of names) process.on(name, hold)
  return () => {
    for (const name of names) process.off(name, hold)
  }
}

/** As vitest shows it, and its option -t matches it. */
function fullName(task: { readonly name: string; readonly suite?: { readonly name: string } | undefined }): string {
  const names: string[] = []
  for (let at: typeof task | undefined = task; at !== undefined; at = at.suite as typeof task | undefined)
    names.unshift(at.name)
  return names.join(' ')
}

export { afterAll, afterEach, beforeAll, beforeEach, describe } from 'vitest'
export type { Device } from './device.ts'
export type { CommandResult, Guest } from './guest.ts'
export type { Hyp, Owner } from './hyp.ts'
export { HypError } from './hyp.ts'
export type { HypWarningSeen, Log, Pattern, SmmuCommand, SmmuEvent, SmmuTrap } from './log.ts'
export type { Machine } from './machine.ts'
export type { Expected, MachineMatchers, Wait } from './matchers.ts'
export type { DeviceName, MachineOptions } from './options.ts'
export type { Transaction, Translation } from './tables.ts'
export { expect }
