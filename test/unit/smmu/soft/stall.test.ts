// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { describeEvent } from '../../../../server/smmu/events.ts'
import type { SoftSmmuOptions } from '../../../../server/smmu/soft/options.ts'
import { SoftSmmu } from '../../../../server/smmu/soft/softSmmu.ts'
import { C, LOG2_EVENTS, R } from '../driver.ts'
import { FlatMemory, idRegisters } from '../support.ts'
import { EVERYTHING, Everything, SID, STALL_MAX } from './world.ts'

const UNMAPPED = 0x5000n

class Stalling extends Everything {
  readonly results: [number, number, string][] = []
  constructor(options: SoftSmmuOptions = {}) {
    const results: [number, number, string][] = []
    super({
      onResume: (stag, t, result) =>
        results.push([
          stag,
          t.sid,
          result === 'raz-wi' ? result : result.kind === 'fault' ? result.response : result.kind,
        ]),
      ...options,
    })
    this.results = results
    this.stalling().on()
  }

  /** The STAG that a faulting access got; undefined: none. */
  stall(sid: number = SID.s1): number | undefined {
    const outcome = this.to(sid, UNMAPPED)
    if (outcome.kind !== 'fault') throw new Error(outcome.kind)
    expect(outcome.response).toBe('stall')
    return outcome.record ? outcome.event.stag : undefined
  }

  resume(sid: number, stag: number, response: number): this {
    this.command(
      C.CMDQ_OP_RESUME,
      [C.CMDQ_RESUME_0_SID, sid],
      [C.CMDQ_RESUME_1_STAG, stag],
      [C.CMDQ_RESUME_0_RESP, response],
    )
    return this
  }
}

describe('CMD_RESUME (IHI 0070 section 4.7.1)', () => {
  it.each([
    // Action and Abort, the page is mapped meanwhile, TERM_MODEL, result
    ['terminate', C.CMDQ_RESUME_0_RESP_TERM, false, false, 'raz-wi'],
    ['terminate, Ab = 1', C.CMDQ_RESUME_0_RESP_ABORT, false, false, 'abort'],
    ['retry', C.CMDQ_RESUME_0_RESP_RETRY, false, false, 'stall'],
    ['retry, mapped', C.CMDQ_RESUME_0_RESP_RETRY, true, false, 'translated'],
    ['retry with Ab = 1, mapped', 3, true, false, 'translated'],
    ['terminate where all is aborted', C.CMDQ_RESUME_0_RESP_TERM, false, true, 'abort'],
  ])('%s', (_, response, mapped, termModel, result) => {
    const id = { ...EVERYTHING, idr0: EVERYTHING.idr0 | (termModel ? R.IDR0_TERM_MODEL : 0) }
    const s = new Stalling({ id })
    const stag = s.stall()
    expect(stag).toBe(0)
    expect(s.events()).toEqual(['F_TRANSLATION sid=0x3 read S1 IN stalled stag=0x0 input=0x5000'])
    if (mapped) s.map(s.t0, UNMAPPED, BigInt(s.ipa))
    s.resume(SID.s1, 0, response)
    expect(s.results).toEqual([[0, SID.s1, result]])
  })

  it('a STAG that is not held, or by another stream, is no error and has no effect', () => {
    const s = new Stalling()
    s.stall()
    s.resume(SID.s2, 0, 1).resume(SID.s1, 1, 1).resume(SID.s1, 0xffff, 0)
    expect(s.results).toEqual([])
    expect(s.read(R.ARM_SMMU_CMDQ_CONS)).toBe(3)
    s.resume(SID.s1, 0, 2).resume(SID.s1, 0, 2)
    expect(s.results).toEqual([[0, SID.s1, 'abort']])
  })

  it('stage 2 stalls by S2S, and RAZ/WI is possible there too', () => {
    const s = new Stalling()
    s.stall(SID.s2)
    expect(s.events()).toEqual(['F_TRANSLATION sid=0x4 read S2 IN stalled stag=0x0 input=0x5000 ipa=0x5000'])
    s.resume(SID.s2, 0, 0)
    expect(s.results).toEqual([[0, SID.s2, 'raz-wi']])
  })
})

it('CMD_STALL_TERM aborts what a stream has stalled, and nothing else (IHI 0070 section 4.7.2)', () => {
  const s = new Stalling()
  s.stall(SID.s1)
  s.stall(SID.s2)
  s.stall(SID.s1)
  s.command(C.CMDQ_OP_STALL_TERM, [C.CMDQ_RESUME_0_SID, SID.s1])
  expect(s.results).toEqual([
    [0, SID.s1, 'abort'],
    [2, SID.s1, 'abort'],
  ])
  expect(s.stall(SID.s2)).toBe(0)
})

it('SMMUEN 1 → 0 terminates all of them with an abort (IHI 0070 section 6.3.9.6)', () => {
  const s = new Stalling()
  s.stall(SID.s1)
  s.stall(SID.s2)
  s.write(R.ARM_SMMU_CR0, R.CR0_CMDQEN | R.CR0_EVTQEN)
  expect(s.results.map(([, , result]) => result)).toEqual(['abort', 'abort'])
})

it('not more are held than IDR5.STALL_MAX says; the device has to come again', () => {
  const s = new Stalling()
  for (let i = 0; i < STALL_MAX; i++) expect(s.stall()).toBe(i)
  expect(s.stall()).toBeUndefined()
  expect(s.events()).toHaveLength(STALL_MAX)
  s.resume(SID.s1, 1, 2)
  expect(s.stall()).toBe(1)
})

describe('a record that finds no room waits (IHI 0070 sections 3.5.4, 7.4)', () => {
  it('until CONS moves, and is no overflow', () => {
    const s = new Stalling()
    for (let i = 0; i < 1 << LOG2_EVENTS; i++) s.to(SID.invalid, 0n)
    s.stall()
    expect(s.read(R.ARM_SMMU_EVTQ_PROD) & R.Q_OVERFLOW_FLAG).toBe(0)
    expect(s.events()).toEqual(Array(4).fill('C_BAD_STE sid=0x0'))
    expect(s.events()).toEqual(['F_TRANSLATION sid=0x3 read S1 IN stalled stag=0x0 input=0x5000'])
  })

  it('until EVTQEN', () => {
    const s = new Stalling()
    s.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN)
    s.stall()
    s.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN)
    expect(s.events()).toHaveLength(1)
  })

  it('and goes when its transaction does', () => {
    const s = new Stalling()
    s.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN)
    s.stall()
    s.command(C.CMDQ_OP_STALL_TERM, [C.CMDQ_RESUME_0_SID, SID.s1])
    s.write(R.ARM_SMMU_CR0, R.CR0_SMMUEN | R.CR0_CMDQEN | R.CR0_EVTQEN)
    expect(s.events()).toEqual([])
  })
})

it.each([
  ['the Stall model without a stall', idRegisters({}, { idr0: R.IDR0_STALL_MODEL })],
  ['a Reserved STALL_MODEL', idRegisters({ idr0: R.IDR0_STALL_MODEL, idr5: 0x1_0000 })],
])('%s is refused', (_, id) => {
  expect(() => new SoftSmmu(new FlatMemory(), { id })).toThrow(RangeError)
})

it('property: each stalled transaction ends exactly once, and no two have the same STAG', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          what: fc.constantFrom('stall', 'stall', 'resume', 'term', 'events'),
          sid: fc.constantFrom(SID.s1, SID.s2),
          stag: fc.nat(STALL_MAX),
          response: fc.nat(3),
        }),
        { maxLength: 60 },
      ),
      steps => {
        const held = new Map<number, number>()
        let mistakes = 0
        const s = new Stalling({
          onResume: (stag, t, result) => {
            if (held.get(stag) !== t.sid) mistakes++
            held.delete(stag)
            if (result !== 'raz-wi' && result.kind === 'fault' && result.record) held.set(result.event.stag, t.sid)
          },
        })
        for (const { what, sid, stag, response } of steps) {
          if (what === 'stall') {
            const got = s.stall(sid)
            expect(got === undefined).toBe(held.size === STALL_MAX)
            if (got === undefined) continue
            expect(held.has(got)).toBe(false)
            held.set(got, sid)
          } else if (what === 'resume') s.resume(sid, stag, response)
          else if (what === 'term') {
            s.command(C.CMDQ_OP_STALL_TERM, [C.CMDQ_RESUME_0_SID, sid])
            expect([...held.values()]).not.toContain(sid)
          } else for (const event of s.events()) expect(event).toMatch(/stalled/)
        }
        expect(mistakes).toBe(0)
      },
    ),
  )
})

it('describes a stalled event', () => {
  const s = new Stalling()
  const outcome = s.to(SID.nested, UNMAPPED)
  if (outcome.kind === 'fault') expect(describeEvent(outcome.event)).toContain('stalled stag=0x0')
  else expect.unreachable()
})
