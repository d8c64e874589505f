// SPDX-License-Identifier: Apache-2.0
/** The round trip of a trap, and where its time goes. */
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { FrameReader, FrameWriter } from '../../protocol/framing.ts'
import { Decoder } from '../../protocol/generated/messages.ts'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { INSTANT, runBareGuest } from './bareGuest.ts'
import type { Budget, Context, Part } from './figure.ts'
import { encodeTypicalTrap, PingPong, peerRoundTrip } from './pingpong.ts'
import { inPairs, inTurn, median } from './stats.ts'

/** For one that never sleeps, µs; 0: it has to where there is but one processor. */
const ALWAYS_US = availableParallelism() > 1 ? 1_000_000 : 0

/** µs for cutting a trap out of the stream and decoding it, measured alone. */
function decodeTime(count: number): number {
  const out = new FrameWriter()
  encodeTypicalTrap(out, 100_000)
  const frame = out.buffer.subarray(0, out.length)
  const reader = new FrameReader()
  const decoder = new Decoder('server')
  let sum = 0
  const round = () => {
    const start = performance.now()
    for (let i = 0; i < count; i++) {
      reader.push(frame)
      while (reader.next()) sum += decoder.decode(reader.buffer, reader.start, reader.end).seq
    }
    return ((performance.now() - start) * 1000) / count
  }
  round()
  const time = median([round(), round(), round(), round(), round()])
  if (sum === 0) throw new Error('nothing was decoded')
  return time
}

export async function benchTrap({ scale, signal, say, peers }: Context): Promise<Part> {
  const folder = mkdtempSync(join(tmpdir(), 'cosim-bench-'))
  try {
    const qemu = await ensureQemu({ signal })
    const pingPong = await PingPong.build(folder, scale.traps, signal)
    const guest = (policy: string, ...properties: string[]) =>
      runBareGuest(qemu, scale.traps, policy, signal, properties)
    if (scale.warmUp) {
      await guest(INSTANT)
      await pingPong.exchange(0, false)
    }
    const { a, b } = await inPairs(
      scale.pairs,
      signal,
      async pair => {
        say(`trap: pair ${pair + 1} of ${scale.pairs}`)
        return {
          asleep: await guest(INSTANT, 'spin-us=0'),
          nested: await guest('passthrough'),
          instant: await guest(INSTANT),
        }
      },
      async () => ({
        blocking: await pingPong.exchange(0, false),
        apart: await pingPong.exchange(0, true),
        bothSpin: await pingPong.exchange(ALWAYS_US, true),
        peers: await inTurn(peers, peer => peerRoundTrip(peer, scale.traps, signal)),
      }),
    )
    type Percentile = 'p50' | 'p99'
    const side = (run: 'instant' | 'asleep' | 'nested', label: string, q: Percentile = 'p50') => ({
      label,
      values: a.map(runs => runs[run].trip[q] / 1000),
    })
    const socket = (run: 'blocking' | 'apart' | 'bothSpin', label: string, q: Percentile = 'p50') => ({
      label,
      values: b.map(runs => runs[run][q]),
    })
    const trap = side('instant', 'seen by the vCPU')
    const blocking = socket('blocking', 'C to C, blocking')
    const base = { bench: 'trap', unit: 'µs' } as const
    return {
      figures: [
        {
          ...base,
          what: 'trap, p50',
          a: trap,
          b: socket('bothSpin', 'C to C, both spinning, two processors'),
          target: '≤ 0.5 ×',
        },
        { ...base, what: 'trap, p50', a: trap, b: blocking },
        ...peers.map(({ label }, i) => ({
          ...{ ...base, what: 'trap, p50', a: trap },
          b: { label, values: b.map(runs => runs.peers[i].p50) },
        })),
        { ...base, what: 'trap, p50', a: trap, b: socket('apart', 'C to C, blocking, two processors') },
        {
          ...base,
          what: 'trap, p99',
          a: side('instant', 'seen by the vCPU', 'p99'),
          b: socket('blocking', 'C to C, blocking', 'p99'),
        },
        { ...base, what: 'trap when QEMU does not spin, p50', a: side('asleep', 'spin-us=0'), b: blocking },
        {
          ...base,
          what: 'trap with a hardware access, p50',
          a: side('nested', 'passthrough'),
          b: blocking,
          target: '≤ 3 µs',
        },
      ],
      budgets: [
        budget(median(trap.values), median(a.map(runs => runs.instant.server.p50 / 1000)), decodeTime(scale.traps)),
      ],
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * All in µs.
 * @param trip of the trap, p50. @param server's own part of it. @param decode measured alone.
 */
function budget(trip: number, server: number, decode: number): Budget {
  return {
    bench: 'trap',
    what: 'where the time of a trap goes, p50',
    unit: 'µs',
    rows: [
      { part: 'trap seen by the vCPU', value: trip },
      { part: 'server: policy, encode, trace', of: true, value: server },
      { part: 'rest: the ring both ways, decode in Node, encode and decode in QEMU', of: true, value: trip - server },
      { part: 'for comparison: decoding measured alone', value: decode },
    ],
  }
}
