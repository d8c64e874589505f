// SPDX-License-Identifier: Apache-2.0
/** The machine that is attacked, with policies made for it: what happens meanwhile, ends of processes, posted writes. */
import { describe, expect, test } from 'vitest'
import { Stage } from '../../../server/attack/program.ts'
import type { Setup } from '../../../server/attack/setup.ts'
import type { Meanwhile, Step } from '../../../server/attack/steps.ts'
import { World } from '../../../server/attack/world.ts'
import type { Machine } from '../../../server/machine/ports.ts'
import {
  HypFatal,
  type Policy,
  type PolicyContext,
  type PolicyFactory,
  type Trap,
} from '../../../server/policy/policy.ts'
import * as R from '../../../server/smmu/registers.ts'
import { CARVEOUT, dma, HIGH_RAM, PLAIN, RAM, read, store, withHole, write } from './support.ts'

const CONS = R.ARM_SMMU_CMDQ_CONS

/** A world whose policy does as it is told at each trap. */
function world(
  access: (trap: Trap, machine: Machine, context: PolicyContext) => void,
  setup: Partial<Setup> = {},
  more: Partial<Policy> = {},
): World {
  const it = new World({ ...PLAIN, ...setup }, (machine, context) => ({
    name: 'test',
    reset: () => {},
    access: trap => access(trap, machine, context),
    ...more,
  }))
  it.restart(1)
  return it
}

const word = ({ memory }: Machine, address: number): number => {
  const bytes = new Uint8Array(4)
  memory.read(address, bytes, 0, 4)
  return bytes[0]
}

describe('what happens meanwhile', () => {
  const plan = (during: { access: number; steps: Meanwhile[] }[]): Step => ({ ...write(0, 0), during })

  test('happens after the access it belongs to', () => {
    const seen: number[] = []
    const it = world((_, machine) => {
      for (let i = 0; i < 4; i++) seen.push(word(machine, RAM))
    })
    it.perform(
      plan([
        { access: 1, steps: [store(RAM, 1)] },
        { access: 3, steps: [store(RAM, 2), store(RAM, 3)] },
        { access: 9, steps: [store(RAM, 4)] },
      ]),
    )
    expect(seen).toEqual([0, 1, 1, 3])
    expect(it.memory.word(RAM)).toBe(3)
    // Not in the next step.
    it.perform(write(0, 0))
    expect(seen.slice(4)).toEqual([3, 3, 3, 3])
  })

  test('happens after each access, of registers and memory, reads and writes', () => {
    const seen: string[] = []
    const it = world((_, machine) => {
      const [{ hardware }] = machine.smmus
      const into = { lo: 0, hi: 0 }
      hardware.read(R.ARM_SMMU_IDR0, 4, into)
      hardware.write(R.ARM_SMMU_CR1, 4, 1, 0)
      word(machine, RAM)
      machine.memory.write(RAM, new Uint8Array(4), 0, 4)
    })
    it.onAccess = what => seen.push(what)
    let accesses = 0
    it.view = {
      ...{ begin: () => {}, reset: () => {}, wrote: () => {}, readCons: () => {}, performed: () => {} },
      switched: () => {},
      accessed: () => accesses++,
    }
    it.perform({ ...write(0, 0), each: [dma(0, RAM)] })
    expect(accesses).toBe(4)
    expect(seen).toEqual(['register 0x0', 'register 0x28', `read ${RAM_TEXT}`, `write ${RAM_TEXT}`])
  })
})

const RAM_TEXT = `0x${RAM.toString(16)}`

describe('the end of a process', () => {
  /** Counts in memory; its state is what it counted to. */
  function counting(dies: number | undefined, persists = false) {
    const lives: string[] = []
    let count = 0
    const it = new World(PLAIN, (machine, context) => {
      lives.push('new')
      return {
        name: 'test',
        reset: () => {},
        access: () => {
          count++
          word(machine, RAM)
          count++
          if (persists) context.persist?.()
          word(machine, RAM)
          count++
        },
        state: {
          generation: 0,
          checkpoint: () => Uint8Array.of(count),
          restore: ([value]) => {
            count = value
            lives.push(`restore ${value}`)
          },
          resume: () => {
            lives.push('resume')
            return []
          },
        },
      }
    })
    it.restart(1)
    it.perform(dies === undefined ? { do: 'take-over' } : { ...write(0, 0), dies })
    return { lives, count, it }
  }

  test('the successor goes on from the last state, and decides the trap again', () => {
    expect(counting(1)).toMatchObject({ lives: ['new', 'new', 'restore 0', 'resume'], count: 3 })
    expect(counting(2)).toMatchObject({ lives: ['new', 'new', 'restore 0', 'resume'], count: 3 })
  })

  test('or from the one that was kept on the way', () => {
    expect(counting(1, true)).toMatchObject({ lives: ['new', 'new', 'restore 0', 'resume'], count: 3 })
    expect(counting(2, true)).toMatchObject({ lives: ['new', 'new', 'restore 2', 'resume'], count: 5 })
  })

  test('it does not die where it has done all it does', () => {
    expect(counting(3)).toMatchObject({ lives: ['new'], count: 3 })
  })

  test('a take-over is one', () => {
    expect(counting(undefined)).toMatchObject({ lives: ['new', 'new', 'restore 0', 'resume'], count: 0 })
  })

  test('a successor that cannot is a finding', () => {
    const it = world(
      () => {},
      {},
      {
        state: {
          generation: 0,
          checkpoint: () => new Uint8Array(1),
          restore: () => {
            throw new RangeError('SMMU 1: 0xabc is not 0x12')
          },
        },
      },
    )
    it.perform({ do: 'take-over' })
    expect(it.oracle.finding).toMatchObject({
      kind: 'take-over RangeError: SMMU N: N is not N',
      message: 'RangeError: SMMU 1: 0xabc is not 0x12',
    })
  })
})

describe('a policy that fails', () => {
  test('by an exception', () => {
    const it = world(() => {
      throw new TypeError('entry 17 of nothing')
    })
    it.perform(store(RAM, 1))
    it.perform(write(0, 0))
    expect(it.oracle.finding).toEqual({
      ...{ kind: 'throws TypeError: entry N of nothing', message: 'TypeError: entry 17 of nothing', step: 1 },
    })
  })

  test('by going on without an end', () => {
    const it = world((_, machine) => {
      for (;;) word(machine, RAM)
    })
    it.perform(write(0, 0))
    expect(it.oracle.finding?.kind).toBe('endless')
  })
})

describe('writes that go to the hardware with the answer', () => {
  const post = (check: number, answer: number) => (trap: Trap, machine: Machine) => {
    trap.lo = 0x77
    if (trap.write) machine.smmus[0].hardware.post?.(R.ARM_SMMU_CR1, 5, R.ARM_SMMU_CR1, check, answer)
  }

  test('are carried out after the trap, and answer reads until the next one', () => {
    const it = world(post(5, 0x99), { posts: true })
    const before = { lo: 0, hi: 0 }
    it.onAccess = () => it.smmus[0].read(R.ARM_SMMU_CR1, 4, before)
    it.perform(write(0, 0))
    expect(before.lo).toBe(0)
    it.perform(read(R.ARM_SMMU_CR1))
    expect(it.answer.lo).toBe(0x99)
    it.perform(read(CONS))
    expect(it.answer.lo).toBe(0x77)
    // That was a trap.
    it.perform(read(R.ARM_SMMU_CR1))
    expect(it.answer.lo).toBe(0x77)
  })

  test('that lead to something else are told', () => {
    const told: number[] = []
    const it = world(post(6, 0x99), { posts: true }, { postMismatch: smmu => void told.push(smmu) })
    it.perform(write(0, 0))
    expect(told).toEqual([0])
    it.perform(read(R.ARM_SMMU_CR1))
    expect(it.answer.lo).toBe(0x77)
  })

  test('are not there on hardware that does without', () => {
    const it = world((_, machine) => expect(machine.smmus[0].hardware.post).toBeUndefined())
    it.perform(write(0, 0))
    expect(it.oracle.finding).toBeUndefined()
  })
})

test('vCPUs do not store to pages that are kept from them', () => {
  const it = world((_, { guard }) => guard.add(RAM, 4096))
  it.perform(store(RAM, 1))
  it.perform(write(0, 0))
  it.perform(store(RAM + 4092, 2, 3))
  expect([RAM, RAM + 4092, RAM + 4096].map(address => it.memory.word(address))).toEqual([1, 0, 3])
})

test('firmware leaves behind what the setup says', () => {
  const through = (firmware: Setup['firmware']) => {
    const it = world(() => {}, { firmware, sidBits: 8 })
    const into = { lo: 0, hi: 0 }
    it.smmus[0].read(R.ARM_SMMU_CR0, 4, into)
    if (into.lo === 0) {
      // Whoever comes next, with a table that is empty.
      it.smmus[0].write(R.ARM_SMMU_STRTAB_BASE, 8, RAM, 0)
      it.smmus[0].write(R.ARM_SMMU_STRTAB_BASE_CFG, 4, 8, 0)
      it.smmus[0].write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN, 0)
    }
    return [into.lo, it.devices.access(dma(7, CARVEOUT))?.kind]
  }
  expect(through('none')).toEqual([0, 'fault'])
  expect(through('cached')).toEqual([0, 'translated'])
  expect(through('on')).toEqual([R.CR0_SMMUEN, 'translated'])
})

test('what is kept from vCPUs and is the host’s is found in the end', () => {
  const factory = withHole({
    access: (trap, policy, { guard }) => {
      policy.access(trap)
      guard.add(HIGH_RAM, 4096)
    },
  })
  const stage = new Stage(PLAIN, 'hostile', factory)
  expect(stage.perform([read(0)], 1, false)).toBeUndefined()
  expect(stage.perform([read(0)], 1, true)?.kind).toBe('guard')
})

test('a read that reaches into a page of a VM is seen by its length', () => {
  const it = new Stage(
    PLAIN,
    'hostile',
    withHole({
      access: (trap, policy, machine) => {
        policy.access(trap)
        machine.memory.read(RAM, new Uint8Array(8192), 0, 8192)
      },
    }),
  )
  const donate: Step = { do: 'donate', base: RAM + 4096, size: 4096, vm: 1 }
  expect(it.perform([read(0)], 1, false)).toBeUndefined()
  expect(it.perform([donate, read(0)], 1, false)?.kind).toBe('hypervisor-reads-vm')
})

test('a successor that gives a page to vCPUs is found at once', () => {
  const factory: PolicyFactory = (machine, context) => {
    const policy = withHole({})(machine, context)
    const { state } = policy
    if (state === undefined) throw new Error('a policy without state')
    const resume = () => {
      const commands = state.resume?.() ?? []
      machine.guard.remove(RAM, 4096)
      return commands
    }
    const checkpoint = () => state.checkpoint()
    return { ...policy, state: { generation: 0, checkpoint, restore: bytes => state.restore(bytes), resume } }
  }
  const stage = new Stage(PLAIN, 'hostile', factory)
  const donate: Step = { do: 'donate', base: RAM, size: 4096, vm: 1 }
  expect(stage.perform([donate], 1, false)).toBeUndefined()
  expect(stage.perform([donate, { do: 'take-over' }], 1, false)).toMatchObject({ kind: 'guard', step: 1, page: RAM })
})

test('a policy that refuses an SMMU claims nothing, one that does not and has a second stage does', () => {
  const claims = (refusal: string | null, facilities: readonly 'stage2'[]) => {
    const it = new World(PLAIN, (machine, context) => {
      const { inspect, ...policy } = withHole({})(machine, context)
      if (inspect === undefined) throw new Error('a policy that shows nothing')
      return {
        ...policy,
        reset: () => context.report.probe(0, refusal),
        inspect: { ...inspect, facilities: new Set(facilities) },
      }
    })
    it.restart(1)
    return it.oracle.claims
  }
  expect(claims(null, ['stage2'])).toBe(true)
  expect(claims('no stage 2', ['stage2'])).toBe(false)
  expect(claims(null, [])).toBe(false)
})

test('a policy that stops a machine claims nothing of it, and nobody takes over', () => {
  const it = new World(PLAIN, () => ({
    name: 'test',
    state: {
      generation: 0,
      checkpoint: () => new Uint8Array(),
      restore: () => {
        throw new Error('taken over')
      },
    },
    reset: () => {
      throw new HypFatal('not this one')
    },
    access: () => {},
  }))
  it.restart(1)
  it.perform({ do: 'take-over' })
  expect(it.oracle.claims).toBe(false)
  expect(it.feedback.refusal).toBe('not this one')
  expect(it.oracle.finding).toBeUndefined()
})
