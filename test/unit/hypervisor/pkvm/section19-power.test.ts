// SPDX-License-Identifier: Apache-2.0
/** SMMUs that are switched off and on (server/hypervisor/README.md, section 19), with hardware that keeps or loses what it may. */
import { describe, expect, test, vi } from 'vitest'
import { Hypervisor } from '../../../../server/hypervisor/pkvm/hypervisor.ts'
import { POWER_MODES, type PowerMode } from '../../../../server/policy/policy.ts'
import { EBUSY, EIO, ENODEV, EPERM, OK } from '../../../../server/policy/result.ts'
import type { PowerState } from '../../../../server/smmu/hardware.ts'
import * as r from '../../../../server/smmu/registers.ts'
import type { SoftSmmu } from '../../../../server/smmu/soft/softSmmu.ts'
import { CFGI_ALL, command, SYNC, TLBI_NSNH_ALL } from '../../smmu/fields.ts'
import { idRegisters, type SoftBench, type SoftSetUp, softHost } from './soft.ts'
import { CARVEOUT_BASE, HOST_EVTQ, Host, MiB, RAM_BASE, STE } from './support.ts'

const SID = 5
const OTHER = 6
const PAGE = RAM_BASE + 8 * MiB
const MINE = RAM_BASE + 9 * MiB
/** GBPA after a reset: abort, or incoming attributes. */
const ABORTS = r.GBPA_ABORT | 0x1000
/** Where registers point that nobody wrote: into hypervisor memory, the worst that can be. */
const NOWHERE = CARVEOUT_BASE

interface Switches extends SoftSetUp {
  readonly resetsToAbort?: boolean
  /** The controller does not do it. */
  readonly refuses?: (state: PowerState) => boolean
}

const setUpOf = (mode: PowerMode | undefined, more: Switches = {}): SoftSetUp => {
  const { resetsToAbort = true, refuses = () => false, options, soft, ...rest } = more
  return {
    ...rest,
    options: { ...(mode && { power: mode }), ...options },
    soft: { gbpa: resetsToAbort ? ABORTS : 0x1000, unknown: () => NOWHERE, ...soft },
    power: hardware => ({
      resetsToAbort,
      set: (smmu, state) => {
        if (refuses(state)) return false
        ;(hardware[smmu] as SoftSmmu | undefined)?.power(state)
        return true
      },
    }),
  }
}

/** A machine with a stream in bypass, whose translations are cached. */
function running(mode: PowerMode | undefined, more: Switches = {}): { bench: SoftBench; host: Host } {
  const { bench, host } = softHost(setUpOf(mode, more))
  host.attach(SID, STE.bypass)
  bench.write(r.ARM_SMMU_IRQ_CTRL, 5)
  expect(bench.dma(SID, PAGE)).toBe('done')
  expect(bench.dma(SID, MINE)).toBe('done')
  bench.report.take()
  return { bench, host }
}

/** As Linux's driver resumes: all of its registers, no CFGI_STE. */
function resume(bench: SoftBench, host: Host): void {
  bench.report.take()
  host.prepare()
  host.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
  host.commands(CFGI_ALL, SYNC)
  host.commands(TLBI_NSNH_ALL, SYNC)
  host.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN)
  host.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_EVTQEN | r.CR0_SMMUEN)
  expect(bench.report.take()).toEqual([])
}

/** Which of the states the host notices. */
const ways: readonly (readonly [mode: PowerMode, state: PowerState, lost: boolean])[] = [
  ['reshadow', 'off', true],
  ['reshadow', 'retained', false],
  ['keep', 'off', false],
  ['keep', 'retained', false],
]

describe.each(ways)('%s, %s', (mode, state, lost) => {
  test('devices reach nothing while it is off, and what they reached when it is on', () => {
    const { bench, host } = running(mode)
    expect(bench.hyp.power(0, state)).toBe(OK)
    expect(bench.hyp.powerState(0)).toBe(state)
    expect(bench.dma(SID, MINE)).toBe('abort')
    expect(bench.hyp.power(0, 'on')).toBe(OK)
    expect(bench.hyp.powerState(0)).toBe('on')
    expect(bench.read(r.ARM_SMMU_CR0)).toBe(lost ? 0 : 0xd)
    if (lost) {
      expect(bench.dma(SID, MINE)).toBe('abort')
      expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SHUTDOWN'])
      resume(bench, host)
    } else {
      expect(bench.read(r.ARM_SMMU_IRQ_CTRL)).toBe(5)
      expect(bench.read(r.ARM_SMMU_CR1)).toBe(0xd75)
      expect(bench.read64(r.ARM_SMMU_EVTQ_BASE) & 0xff_ffff_ffe0n).toBe(BigInt(HOST_EVTQ))
    }
    expect(bench.dma(SID, MINE)).toBe('done')
    expect(bench.hyp.verify()).toEqual([])
    expect(bench.report.take()).toEqual([])
    // It takes commands, and pages can be taken from it.
    host.attach(OTHER, STE.bypass)
    expect(bench.dma(OTHER, PAGE)).toBe('done')
    expect(bench.hyp.donate(PAGE, 4096, 1)).toBe(OK)
    expect(bench.dma(OTHER, PAGE)).toBe('F_TRANSLATION')
  })

  test('a page that was donated while it was off is not reached by what it kept', () => {
    const { bench, host } = running(mode)
    bench.hyp.power(0, state)
    expect(bench.hyp.donate(PAGE, 4096, 1)).toBe(OK)
    bench.hyp.power(0, 'on')
    if (lost) resume(bench, host)
    expect(bench.dma(SID, PAGE)).toBe('F_TRANSLATION')
    expect(bench.dma(SID, MINE)).toBe('done')
  })

  test('whatever the hypervisor is at, a device reaches what it may or nothing', () => {
    const { bench } = running(mode)
    const outcomes = new Set<string>()
    const look = () => outcomes.add(bench.dma(SID, PAGE))
    const [{ hardware }] = bench.machine.smmus
    // What was translated before must not be used once the page is another's.
    for (const access of ['read', 'write'] as const) {
      const really = hardware[access].bind(hardware) as (...args: unknown[]) => boolean
      vi.spyOn(hardware, access).mockImplementation((...args: unknown[]) => {
        const ok = really(...args)
        look()
        return ok
      })
    }
    bench.hyp.power(0, state)
    expect([...outcomes].sort()).toEqual(['abort', 'done'])
    bench.hyp.donate(PAGE, 4096, 1)
    outcomes.clear()
    bench.hyp.power(0, 'on')
    expect([...outcomes]).not.toContain('done')
    expect(outcomes.size).toBeGreaterThan(0)
  })

  test('killed after any access, a successor goes on', () => {
    for (let after = 1; ; after++) {
      const { bench, host } = running(mode)
      const died = killed(bench, mode, after, hyp => hyp.power(0, state))
      expect(['on', state]).toContain(bench.hyp.powerState(0))
      if (bench.hyp.powerState(0) === 'on') expect(bench.hyp.power(0, state)).toBe(OK)
      expect(bench.dma(SID, MINE)).toBe('abort')
      bench.hyp.donate(PAGE, 4096, 1)
      const diedAgain = killed(bench, mode, after, hyp => hyp.power(0, 'on'))
      expect(bench.hyp.powerState(0)).toBe('on')
      if (lost) {
        bench.report.take()
        resume(bench, host)
      }
      expect([after, bench.dma(SID, MINE), bench.dma(SID, PAGE)]).toEqual([after, 'done', 'F_TRANSLATION'])
      expect(bench.hyp.verify()).toEqual([])
      if (!died && !diedAgain) break
    }
  })
})

/** The hypervisor is killed after so many accesses to memory and registers. @returns whether it was */
function killed(bench: SoftBench, mode: PowerMode, after: number, act: (hyp: Hypervisor) => void): boolean {
  let kept = bench.hyp.checkpoint().slice()
  // It takes over first.
  let left = Number.POSITIVE_INFINITY
  class Killed extends Error {}
  const spend = () => {
    if (--left === 0) throw new Killed()
  }
  const { memory, smmus, power } = bench.machine
  const machine = {
    ...bench.machine,
    memory: {
      ram: memory.ram,
      read: (...args: Parameters<typeof memory.read>) => {
        const ok = memory.read(...args)
        spend()
        return ok
      },
      write: (...args: Parameters<typeof memory.write>) => {
        const ok = memory.write(...args)
        spend()
        return ok
      },
    },
    smmus: smmus.map(({ hardware, ...smmu }) => ({
      ...smmu,
      hardware: {
        read: (...args: Parameters<typeof hardware.read>) => {
          const ok = hardware.read(...args)
          spend()
          return ok
        },
        write: (...args: Parameters<typeof hardware.write>) => {
          const ok = hardware.write(...args)
          spend()
          return ok
        },
      },
    })),
    ...(power && {
      power: {
        resetsToAbort: power.resetsToAbort,
        set: (smmu: number, state: PowerState) => {
          const ok = power.set(smmu, state)
          spend()
          return ok
        },
      },
    }),
  }
  const context = { options: { waitPolls: 50, power: mode }, report: bench.report, clock: () => bench.now++ }
  const mortal: Hypervisor = new Hypervisor(machine, {
    ...context,
    persist: () => {
      kept = mortal.checkpoint().slice()
    },
  })
  mortal.restore(kept)
  mortal.resume()
  left = after
  let died = false
  try {
    act(mortal)
    kept = mortal.checkpoint().slice()
  } catch (error) {
    if (!(error instanceof Killed)) throw error
    died = true
  }
  const next = new Hypervisor(bench.machine, context)
  next.restore(kept)
  next.resume()
  bench.hyp = next
  return died
}

test('while it is off, nobody may touch it', () => {
  const { bench } = running('keep')
  bench.hyp.power(0, 'off')
  expect(bench.trap(false, r.ARM_SMMU_CR0, 4).aborted).toBe(true)
  expect(bench.trap(true, r.ARM_SMMU_CMDQ_PROD, 4, 2).aborted).toBe(true)
  expect(bench.report.take()).toEqual(['HYP_POWERED_OFF', 'HYP_POWERED_OFF'])
})

test('one that would let devices through when it is on again does not lose its state', () => {
  const { bench } = running('keep', { resetsToAbort: false })
  expect(bench.hyp.power(0, 'off')).toBe(EPERM)
  expect(bench.dma(SID, MINE)).toBe('done')
  expect(bench.hyp.power(0, 'retained')).toBe(OK)
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  expect(bench.dma(SID, MINE)).toBe('done')
})

test('GBPA aborts before the power goes and when it comes, whatever it was and was promised to be', () => {
  // The platform has promised what its hardware does not keep.
  const { bench } = running('reshadow', { soft: { gbpa: 0x1000 } })
  bench.poke(r.ARM_SMMU_GBPA, r.GBPA_UPDATE | 0x1000)
  const { hw } = bench
  const really = hw.write.bind(hw)
  const outcomes: string[] = []
  vi.spyOn(hw, 'write').mockImplementation((offset, size, lo, hi) => {
    const ok = really(offset, size, lo, hi)
    if (offset === r.ARM_SMMU_CR0) outcomes.push(bench.dma(SID, MINE))
    return ok
  })
  expect(bench.hyp.power(0, 'off')).toBe(OK)
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  expect([...outcomes, bench.dma(SID, MINE)]).toEqual(['abort', 'abort'])
})

test('with reshadow the host finds its registers as after a reset, and its pages are its own', () => {
  const { bench, host } = running('reshadow')
  const { hw } = bench
  const really = hw.read.bind(hw)
  // CR0ACK does not follow while it is on.
  const late = vi.spyOn(hw, 'read').mockImplementation((offset, size, into) => {
    const ok = really(offset, size, into)
    if (offset === r.ARM_SMMU_CR0ACK && ok) into.lo = 0xd
    return ok
  })
  expect(bench.hyp.power(0, 'off')).toBe(OK)
  late.mockRestore()
  expect(bench.report.take()).toContain('HYP_CR0ACK')
  for (const page of [host.cmdq, host.evtq, host.strtab]) expect(bench.hyp.donate(page, 4096, 1)).toBe(OK)
  bench.hyp.power(0, 'on')
  const zero = [r.ARM_SMMU_CR0, r.ARM_SMMU_CMDQ_PROD, r.ARM_SMMU_CMDQ_CONS, r.ARM_SMMU_STRTAB_BASE_CFG]
  expect(zero.map(offset => bench.read(offset))).toEqual([0, 0, 0, 0])
  expect([r.ARM_SMMU_CMDQ_BASE, r.ARM_SMMU_STRTAB_BASE].map(offset => bench.read64(offset))).toEqual([0n, 0n])
})

test('no interrupt is written to where a register happens to point', () => {
  const msi = idRegisters({ idr0: r.IDR0_MSI })
  const { bench } = running('reshadow', { soft: { id: msi } })
  bench.hyp.power(0, 'off')
  bench.hw.power('on')
  expect(bench.peek(r.ARM_SMMU_EVTQ_IRQ_CFG0)).toBe(NOWHERE)
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  for (const offset of [r.ARM_SMMU_GERROR_IRQ_CFG0, r.ARM_SMMU_EVTQ_IRQ_CFG0]) expect(bench.peek(offset)).toBe(0)
})

test('what may be cached cannot be invalidated: it stays off', () => {
  const { bench } = running('keep')
  bench.hyp.power(0, 'retained')
  bench.hyp.donate(PAGE, 4096, 1)
  const { hw } = bench
  const really = hw.write.bind(hw)
  const deaf = vi.spyOn(hw, 'write').mockImplementation((offset, size, lo, hi) => {
    return offset === r.ARM_SMMU_CMDQ_PROD ? true : really(offset, size, lo, hi)
  })
  expect(bench.hyp.power(0, 'on')).toBe(EIO)
  expect([bench.hyp.powerState(0), bench.dma(SID, PAGE)]).toEqual(['retained', 'abort'])
  deaf.mockRestore()
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  expect([bench.dma(SID, MINE), bench.dma(SID, PAGE)]).toEqual(['done', 'F_TRANSLATION'])
})

test('from one kind of off to the other there is no way', () => {
  const { bench } = running('keep')
  expect(bench.hyp.power(0, 'retained')).toBe(OK)
  expect(bench.hyp.power(0, 'off')).toBe(EBUSY)
  expect(bench.hyp.power(0, 'retained')).toBe(OK)
})

test('with commands that are not done it stays on, unless the host finds it reset', () => {
  for (const mode of POWER_MODES) {
    const { bench, host } = running(mode)
    host.commands([0xff, 0, 0, 0], SYNC)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED'])
    expect(bench.hyp.power(0, 'retained')).toBe(EBUSY)
    expect(bench.hyp.power(0, 'off')).toBe(mode === 'keep' ? EBUSY : OK)
    bench.report.take()
    if (mode === 'keep') continue
    expect(bench.hyp.power(0, 'on')).toBe(OK)
    resume(bench, host)
    expect(bench.dma(SID, MINE)).toBe('done')
  }
})

test('errors that the host has acknowledged read as they did, and new ones can be', () => {
  const { bench, host } = running('keep')
  const illegal = () => {
    host.commands([0xff, 0, 0, 0])
    expect(bench.report.take()).toEqual(['HYP_CMDQ_STOPPED'])
    bench.memory.poke(host.cmdq + 16 * (host.prod - 1), new Uint8Array(Uint32Array.from(SYNC).buffer))
    host.write(r.ARM_SMMU_GERRORN, bench.read(r.ARM_SMMU_GERROR))
  }
  illegal()
  const registers = () => [bench.read(r.ARM_SMMU_GERROR), bench.read(r.ARM_SMMU_GERRORN)]
  expect(registers()).toEqual([1, 1])
  bench.hyp.power(0, 'off')
  bench.hyp.power(0, 'on')
  expect(registers()).toEqual([1, 1])
  illegal()
  expect(registers()).toEqual([0, 0])
  host.attach(OTHER, STE.bypass)
  expect([bench.dma(OTHER, MINE), bench.report.take()]).toEqual(['done', []])
})

test('a controller that refuses leaves it as it was', () => {
  const off = running('keep', { refuses: state => state !== 'on' })
  expect(off.bench.hyp.power(0, 'off')).toBe(EIO)
  expect(off.bench.hyp.powerState(0)).toBe('on')
  expect(off.bench.read(r.ARM_SMMU_CR0)).toBe(0xd)
  expect(off.bench.dma(SID, MINE)).toBe('done')
  let stuck = true
  const on = running('keep', { refuses: state => state === 'on' && stuck })
  expect(on.bench.hyp.power(0, 'off')).toBe(OK)
  expect(on.bench.hyp.power(0, 'on')).toBe(EIO)
  expect(on.bench.hyp.powerState(0)).toBe('off')
  stuck = false
  expect(on.bench.hyp.power(0, 'on')).toBe(OK)
  expect(on.bench.dma(SID, MINE)).toBe('done')
})

test('hardware that does not come back as it should is switched off again', () => {
  const { bench } = running('keep')
  bench.hyp.power(0, 'off')
  const { hw } = bench
  const really = hw.write.bind(hw)
  const deaf = vi.spyOn(hw, 'write').mockImplementation((offset, size, lo, hi) => {
    return offset === r.ARM_SMMU_STRTAB_BASE || really(offset, size, lo, hi)
  })
  expect(bench.hyp.power(0, 'on')).toBe(EIO)
  expect(bench.hyp.powerState(0)).toBe('off')
  expect(bench.dma(SID, MINE)).toBe('abort')
  deaf.mockRestore()
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  expect(bench.dma(SID, MINE)).toBe('done')
})

test('streams that a driver made while it sends no commands are found when it resumes', () => {
  const { bench, host } = running('reshadow')
  // Linux: SMMUEN and the event queue off, then no command any more.
  host.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
  expect(bench.report.take()).toEqual(['HYP_QUEUE_DISABLED_AT_SUSPEND'])
  bench.hyp.power(0, 'off')
  host.ste(OTHER, STE.bypass)
  host.ste(SID, STE.invalid)
  bench.hyp.power(0, 'on')
  resume(bench, host)
  expect(bench.dma(OTHER, MINE)).toBe('done')
  expect(bench.dma(SID, MINE)).toBe('C_BAD_STE')
})

test('without --power an SMMU is not switched, and a stream without CFGI_STE not found', () => {
  const { bench, host } = running(undefined)
  expect(bench.hyp.power(0, 'off')).toBe(ENODEV)
  host.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
  bench.report.take()
  host.ste(OTHER, STE.bypass)
  resume(bench, host)
  expect(bench.dma(OTHER, MINE)).toBe('C_BAD_STE')
})

test('of several SMMUs the others go on', () => {
  const { bench } = softHost(setUpOf('keep', { smmus: 2 }))
  const second = new Host(bench, 1, 16384 * 8)
  const first = new Host(bench)
  first.attach(SID, STE.bypass)
  second.boot()
  second.attach(SID, STE.bypass)
  bench.hyp.power(0, 'off')
  expect(bench.dma(SID, PAGE, { smmu: 1 })).toBe('done')
  expect(bench.hyp.donate(PAGE, 4096, 1)).toBe(OK)
  expect(bench.dma(SID, PAGE, { smmu: 1 })).toBe('F_TRANSLATION')
  expect(bench.hyp.power(1, 'off')).toBe(OK)
  expect(bench.hyp.power(2, 'off')).toBe(ENODEV)
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  expect(bench.dma(SID, MINE)).toBe('done')
  expect(bench.dma(SID, MINE, { smmu: 1 })).toBe('abort')
})

test('a reset of the machine has all of them on', () => {
  const { bench } = running('keep')
  bench.hyp.power(0, 'off')
  for (const smmu of bench.hardware) smmu.reset()
  bench.hyp.reset()
  expect(bench.hyp.powerState(0)).toBe('on')
  const host = new Host(bench).boot()
  host.attach(SID, STE.bypass)
  expect(bench.dma(SID, MINE)).toBe('done')
})

describe('a loss that nobody told of', () => {
  const lose = (bench: SoftBench) => {
    bench.hw.power('off')
    bench.hw.power('on')
  }

  test('is noticed when the host enables the SMMU', () => {
    const { bench, host } = running('reshadow')
    lose(bench)
    host.write(r.ARM_SMMU_CR0, 0)
    expect(bench.report.take()).toContain('HYP_STATE_LOST')
    resume(bench, host)
    expect(bench.dma(SID, MINE)).toBe('done')
    expect(bench.hyp.verify()).toEqual([])
  })

  test('is noticed before interrupts are enabled, which would be written to where a register happens to point', () => {
    const { bench, host } = running('reshadow', { soft: { id: idRegisters({ idr0: r.IDR0_MSI }) } })
    lose(bench)
    const msi = [r.ARM_SMMU_GERROR_IRQ_CFG0, r.ARM_SMMU_EVTQ_IRQ_CFG0]
    expect(msi.map(offset => bench.peek(offset))).toEqual([NOWHERE, NOWHERE])
    host.write(r.ARM_SMMU_IRQ_CTRL, r.IRQ_CTRL_EVTQ_IRQEN | r.IRQ_CTRL_GERROR_IRQEN)
    expect(bench.report.take()).toContain('HYP_STATE_LOST')
    expect(msi.map(offset => bench.peek(offset))).toEqual([0, 0])
    expect(bench.peek(r.ARM_SMMU_IRQ_CTRL)).toBe(r.IRQ_CTRL_EVTQ_IRQEN | r.IRQ_CTRL_GERROR_IRQEN)
    resume(bench, host)
    expect(bench.dma(SID, MINE)).toBe('done')
  })

  test('is noticed when the hardware consumes no commands', () => {
    const { bench, host } = running('reshadow')
    lose(bench)
    host.commands(command('TLBI_NH_ASID', { asid: 1 }), SYNC)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT', 'HYP_STATE_LOST'])
    expect(bench.read(r.ARM_SMMU_CR0)).toBe(0)
    expect(bench.dma(SID, MINE)).toBe('abort')
    resume(bench, host)
    expect(bench.dma(SID, MINE)).toBe('done')
  })

  test('is a queue that hangs without --power, and devices abort', () => {
    const { bench, host } = running(undefined, { soft: { unknown: () => 0xffff_ffff } })
    lose(bench)
    host.commands(command('TLBI_NH_ASID', { asid: 1 }), SYNC)
    expect(bench.report.take()).toEqual(['HYP_CMDQ_TIMEOUT'])
    expect(bench.dma(SID, MINE)).toBe('abort')
  })

  test('is noticed by a donation, which fails', () => {
    const { bench } = running('reshadow')
    lose(bench)
    expect(bench.hyp.donate(PAGE, 4096, 1)).toBe(EIO)
    expect(bench.report.take()).toContain('HYP_STATE_LOST')
    expect(bench.hyp.donate(PAGE, 4096, 1)).toBe(OK)
  })

  test('devices reach memory past stage 2 until then, where GBPA lets them: nothing can be done about that', () => {
    const { bench } = running('reshadow', { resetsToAbort: false })
    lose(bench)
    expect(bench.dma(SID, CARVEOUT_BASE)).toBe('done')
  })
})

test('commands of a cycle do not depend on the streams where they are kept', () => {
  const commandsOf = (mode: PowerMode, streams: number): number => {
    const { bench, host } = running(mode)
    for (let sid = 0; sid < streams; sid++) host.attach(sid, STE.bypass)
    bench.report.own = []
    bench.hyp.power(0, 'off')
    bench.hyp.power(0, 'on')
    if (mode === 'reshadow') {
      bench.report.take()
      resume(bench, host)
    }
    return bench.report.own.length
  }
  // CFGI_ALL, TLBI_NSNH_ALL, CMD_SYNC.
  for (const mode of POWER_MODES) expect([1, 64, 200].map(streams => commandsOf(mode, streams))).toEqual([3, 3, 3])
})

/** Accesses of the hypervisor to a frame that is off: at EL2 each is an SError. */
function touches({ hw, machine }: SoftBench, cr0Ack: (value: number) => number = value => value): number[] {
  const offsets: number[] = []
  const { power } = machine
  if (power === undefined) throw new Error('its SMMU is not switched')
  let off = false
  const set = power.set.bind(power)
  vi.spyOn(power, 'set').mockImplementation((smmu, state) => {
    const done = set(smmu, state)
    off = state !== 'on'
    return done
  })
  const [read, write] = [hw.read.bind(hw), hw.write.bind(hw)]
  vi.spyOn(hw, 'read').mockImplementation((offset, size, into) => {
    if (off) offsets.push(offset)
    const ok = read(offset, size, into)
    if (offset === r.ARM_SMMU_CR0ACK) into.lo = cr0Ack(into.lo)
    return ok
  })
  vi.spyOn(hw, 'write').mockImplementation((offset, size, lo, hi) => {
    if (off) offsets.push(offset)
    return write(offset, size, lo, hi)
  })
  return offsets
}

test('one that is off is not looked at for a loss, whatever it was found to be before', () => {
  const { bench } = running('keep')
  const offsets = touches(bench)
  expect(bench.hyp.power(0, 'off')).toBe(OK)
  const { hw } = bench
  const write = hw.write.bind(hw)
  // It takes no commands when it comes back, and is switched off again.
  hw.write = (offset, size, lo, hi) => offset === r.ARM_SMMU_CMDQ_PROD || write(offset, size, lo, hi)
  expect(bench.hyp.power(0, 'on')).toBe(EIO)
  expect(bench.hyp.powerState(0)).toBe('off')
  hw.write = write
  bench.report.take()
  expect(bench.hyp.donate(PAGE, 4096, 1)).toBe(OK)
  expect([offsets, bench.report.take()]).toEqual([[], []])
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  expect([bench.dma(SID, MINE), bench.dma(SID, PAGE)]).toEqual(['done', 'F_TRANSLATION'])
})

test('one that has not acknowledged that it is disabled is not asked once it is off', () => {
  const { bench, host } = running('reshadow')
  host.commands([0xff, 0, 0, 0], SYNC)
  let late = 0xd
  const offsets = touches(bench, value => value | late)
  const { ownership } = bench.hyp
  expect(ownership.pinsAt(HOST_EVTQ)).toBe(1)
  expect(bench.hyp.power(0, 'off')).toBe(OK)
  expect([offsets, ownership.pinsAt(HOST_EVTQ), ownership.pinsAt(host.cmdq)]).toEqual([[], 0, 0])
  late = 0
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  resume(bench, host)
  expect(bench.dma(SID, MINE)).toBe('done')
})

test('registers that were kept for a power-off that was refused are not those of a later one', () => {
  let refuses = true
  const { bench, host } = running('keep', { refuses: state => refuses && state !== 'on' })
  const { hw } = bench
  const really = hw.write.bind(hw)
  const deaf = vi
    .spyOn(hw, 'write')
    .mockImplementation(
      (offset, size, lo, hi) => (offset === r.ARM_SMMU_CR0 && lo !== 0) || really(offset, size, lo, hi),
    )
  expect(bench.hyp.power(0, 'off')).toBe(EIO)
  deaf.mockRestore()
  refuses = false
  // The host finds it disabled, takes another event queue, and gives the pages of the first away.
  resume(bench, host)
  host.write(r.ARM_SMMU_CR0, 0)
  bench.write64(r.ARM_SMMU_EVTQ_BASE, PAGE + 8)
  host.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
  host.write(r.ARM_SMMU_CR0, 0xd)
  expect(bench.hyp.donate(HOST_EVTQ, 0x2000, 1)).toBe(OK)
  expect(bench.hyp.power(0, 'off')).toBe(OK)
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  expect(bench.read64(r.ARM_SMMU_EVTQ_BASE)).toBe(BigInt(PAGE + 8))
})

test('what is UNKNOWN of the interrupt registers after a power-on is 0 again', () => {
  const IRQ_CFG = [
    r.ARM_SMMU_GERROR_IRQ_CFG1,
    r.ARM_SMMU_EVTQ_IRQ_CFG2,
    r.ARM_SMMU_PRIQ_IRQ_CFG1,
    r.ARM_SMMU_PRIQ_IRQ_CFG2,
  ]
  const id = idRegisters({ idr0: r.IDR0_ATS | r.IDR0_PRI | r.IDR0_MSI, idr1: 5 << 11 })
  const { bench } = running('keep', { options: { ats: true }, soft: { id } })
  const { power } = bench.machine
  if (power === undefined) throw new Error('its SMMU is not switched')
  const set = power.set.bind(power)
  vi.spyOn(power, 'set').mockImplementation((smmu, state) => {
    const done = set(smmu, state)
    if (state === 'on') for (const offset of IRQ_CFG) bench.poke(offset, 0xffff_ffff)
    return done
  })
  expect(bench.hyp.power(0, 'off')).toBe(OK)
  expect(bench.hyp.power(0, 'on')).toBe(OK)
  for (const offset of IRQ_CFG) expect(bench.read(offset)).toBe(0)
})
