// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { EVTQ_1_CLASS_CD, EVTQ_1_CLASS_TT, eventName, isTranslationRelated } from '../../../server/smmu/events.ts'
import { decodeFeatures, QEMU_NESTED_ID_REGISTERS } from '../../../server/smmu/features.ts'
import type { Outcome } from '../../../server/smmu/transaction.ts'
import { Walker } from '../../../server/smmu/walker.ts'
import { Random, randomAddress, randomMemory } from './random.ts'
import { reference } from './reference.ts'
import { FlatMemory, idRegisters, linearRegisters, RAM_BASE, transaction } from './support.ts'

/** An outcome the way the reference words it. */
function word(outcome: Outcome): string {
  if (outcome.kind === 'abort') return 'abort'
  if (outcome.kind === 'translated') {
    if (outcome.bypass) return `bypass pa=${outcome.pa.toString(16)}`
    const perm = `${outcome.read ? 'r' : ''}${outcome.write ? 'w' : ''}${outcome.execute ? 'x' : ''}`
    return `pa=${outcome.pa.toString(16)} shift=${outcome.shift} ${perm}`
  }
  const { event } = outcome
  const name = eventName(event.id)
  const cls = event.class === EVTQ_1_CLASS_CD ? 'CD' : event.class === EVTQ_1_CLASS_TT ? 'TT' : 'IN'
  const stage = event.s2 ? 'S2' : 'S1'
  if (name === 'F_WALK_EABT') return `${name} ${stage} ${cls} fetch=${event.fetchAddr.toString(16)}`
  if (name === 'F_STE_FETCH' || name === 'F_CD_FETCH') return `${name} fetch=${event.fetchAddr.toString(16)}`
  if (!isTranslationRelated(event.id)) return name
  return `${name} ${stage} ${cls}${event.s2 ? ` ipa=${event.ipa.toString(16)}` : ''}${outcome.record ? '' : ' silent'}`
}

/** Tables that are something else as soon as they were read. */
class ShiftingMemory extends FlatMemory {
  /** Every read. */
  readonly seen: { readonly address: number; readonly length: number }[] = []
  /** Undefined: nothing changes. */
  noise: Random | undefined

  constructor(bytes: Uint8Array) {
    super(bytes.length)
    this.bytes.set(bytes)
  }

  override read(address: number, target: Uint8Array, targetOffset: number, length: number): boolean {
    const ok = super.read(address, target, targetOffset, length)
    this.seen.push({ address, length })
    if (ok && this.noise) for (let at = 0; at < length; at += 8) this.set64(address + at, this.noise.word())
    return ok
  }
}

describe('walker', () => {
  it('agrees with a second reading of the specification on random tables', () => {
    const seen = new Map<string, number>()
    fc.assert(
      fc.property(fc.nat(2 ** 31), seed => {
        const { memory, strtab, inputBits } = randomMemory(seed)
        const r = new Random(seed ^ 0x5bd1e995)
        const walker = new Walker(decodeFeatures(QEMU_NESTED_ID_REGISTERS), memory)
        walker.setRegisters(linearRegisters(strtab, 2))
        for (let i = 0; i < 100; i++) {
          const address = randomAddress(r, inputBits)
          const sid = r.below(r.chance(2) ? 6 : 4)
          const access = { write: r.chance(40), privileged: r.chance(30), instruction: r.chance(10) }
          const got = word(walker.translate(transaction(sid, address, access)))
          const expected = reference(memory, BigInt(strtab), 2, { sid, address, ...access })
          const kind = expected.replace(/(pa|ipa|fetch)=[0-9a-f]+/g, '$1')
          seen.set(kind, (seen.get(kind) ?? 0) + 1)
          expect(got, `sid ${sid} address ${address.toString(16)} ${JSON.stringify(access)}`).toBe(expected)
        }
      }),
      { numRuns: 200 },
    )
    // The random tables are worth something: successes and faults of every kind were among them.
    const kinds = [...seen.keys()].join('\n')
    for (const expected of [
      /^pa shift=12 /m,
      /^pa shift=21 /m,
      /^bypass/m,
      /^C_BAD_STE/m,
      /^C_BAD_CD/m,
      /^C_BAD_STREAMID/m,
      /^F_TRANSLATION S1 IN/m,
      /^F_TRANSLATION S2 IN/m,
      /^F_TRANSLATION S2 TT/m,
      /^F_TRANSLATION S2 CD/m,
      /^F_ADDR_SIZE S1/m,
      /^F_ADDR_SIZE S2/m,
      /^F_ACCESS S1/m,
      /^F_ACCESS S2/m,
      /^F_PERMISSION S1/m,
      /^F_PERMISSION S2 IN/m,
      /^F_PERMISSION S2 TT/m,
      / silent$/m,
    ]) {
      expect(kinds).toMatch(expected)
    }
  })

  it('ends within a bounded number of fetches and never throws, whatever memory, registers and features are', () => {
    let most = 0
    fc.assert(
      fc.property(
        fc.record({
          seed: fc.nat(2 ** 31),
          noise: fc.uint8Array({ minLength: 1024, maxLength: 1024 }),
          base: fc.constantFrom(RAM_BASE, RAM_BASE, RAM_BASE, RAM_BASE + 0x40, RAM_BASE + 0x1000, 0, 0xffff_ffc0),
          baseHi: fc.constantFrom(0, 0, 0, 1, 0xff_ffff, 0xffff_ffff),
          cfg: fc.oneof(fc.constant(2), fc.nat(0xffff_ffff), fc.constantFrom(0x10202, 0x10210, 0x3f, 0x1023f)),
          set: fc.constantFrom<Record<string, number>>(
            {},
            { idr0: 0x200 },
            { idr1: 20 << 6, idr0: 1 << 19 },
            { idr5: 6 },
            { idr5: 6 | (1 << 10) },
            { idr3: 1 << 9 },
          ),
          clear: fc.constantFrom<Record<string, number>>(
            {},
            { idr0: 0x4700_0000 },
            { idr5: 7 },
            { idr0: 1 },
            { idr0: 2 },
          ),
          cr2: fc.nat(3),
        }),
        ({ seed, noise, base, baseHi, cfg, set, clear, cr2 }) => {
          const { memory, inputBits } = randomMemory(seed)
          const r = new Random(seed)
          memory.bytes.set(noise, r.below(256) * 4096)
          const walker = new Walker(decodeFeatures(idRegisters(set, clear)), memory)
          walker.setRegisters({ cr0: 1, cr2, gbpa: 0, strtabBaseLo: base, strtabBaseHi: baseHi, strtabBaseCfg: cfg })
          for (let i = 0; i < 50; i++) {
            const t = transaction(r.chance(80) ? r.below(5) : r.below(2 ** 32), randomAddress(r, inputBits), {
              ssid: r.chance(75) ? -1 : r.below(r.chance(50) ? 16 : 2 ** 20),
              write: r.chance(50),
              privileged: r.chance(50),
              instruction: r.chance(50),
            })
            memory.reads = 0
            const outcome = walker.translate(t)
            most = Math.max(most, memory.reads)
            // L1STD, STE; L1CD and CD with stage 2; four levels with stage 2 each; stage 2 of the output.
            expect(memory.reads).toBeLessThanOrEqual(2 + 2 * 5 + 4 * 5 + 4)
            expect(['translated', 'fault', 'abort']).toContain(outcome.kind)
            if (outcome.kind === 'translated') {
              expect(Number.isSafeInteger(outcome.pa)).toBe(true)
              expect(outcome.pa).toBeLessThan(2 ** 52)
            }
          }
        },
      ),
      { numRuns: 400 },
    )
    expect(most).toBeGreaterThan(12)
  })

  it('tables that change under the walk: what was read once is what counts', () => {
    let compared = 0
    fc.assert(
      fc.property(fc.nat(2 ** 31), seed => {
        const { memory, strtab, inputBits } = randomMemory(seed)
        const r = new Random(seed ^ 0x1234_5678)
        const walk = (sid: number, address: bigint, noise: Random | undefined) => {
          const shifting = new ShiftingMemory(memory.bytes)
          shifting.noise = noise
          const walker = new Walker(decodeFeatures(QEMU_NESTED_ID_REGISTERS), shifting)
          walker.setRegisters(linearRegisters(strtab, 2))
          return { text: word(walker.translate(transaction(sid, address))), seen: shifting.seen }
        }
        for (let i = 0; i < 4; i++) {
          const sid = r.below(4)
          const address = randomAddress(r, inputBits)
          const still = walk(sid, address, undefined)
          const moved = walk(sid, address, r)
          expect(moved.seen.length).toBeLessThanOrEqual(2 + 2 * 5 + 4 * 5 + 4)
          // Two walks of stage 2 may meet at one table, which is read for each of them; a random table may lie in an STE or CD.
          const meets = still.seen.some((a, i) =>
            still.seen.slice(0, i).some(b => a.address < b.address + b.length && b.address < a.address + a.length),
          )
          if (meets) continue
          expect(moved).toEqual(still)
          compared++
        }
      }),
      { numRuns: 60, examples: [[1049322976]] },
    )
    expect(compared).toBeGreaterThan(60)
  })

  it('a table that leads to itself ends after its levels', () => {
    const memory = new FlatMemory(0x1_0000)
    for (let at = 0; at < 0x1_0000; at += 8) memory.set64(RAM_BASE + at, BigInt(RAM_BASE) | 0x7ffn)
    memory.set64(RAM_BASE, 0x0000_0000_4000_004bn)
    const walker = new Walker(decodeFeatures(QEMU_NESTED_ID_REGISTERS), memory)
    walker.setRegisters(linearRegisters(RAM_BASE, 0))
    expect(walker.translate(transaction(0, 0x1000n)).kind).not.toBe('abort')
    expect(memory.reads).toBeLessThan(10)
  })
})
