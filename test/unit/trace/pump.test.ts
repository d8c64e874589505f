// SPDX-License-Identifier: Apache-2.0
/** The ring's one consumer, and who comes late. */
import { expect, test } from 'vitest'
import { Pump, type Sink } from '../../../server/trace/pump.ts'
import { createRing, RingWriter } from '../../../server/trace/ring.ts'

/** Kinds of records as they come. */
function listener(): Sink & { readonly kinds: string[] } {
  const kinds: string[] = []
  return {
    kinds,
    ready: true,
    fromRing: (_reader, layout) => kinds.push(layout.name),
    record: ({ kind }) => kinds.push(kind),
    flush() {},
  }
}

function made() {
  const ring = createRing(1 << 16)
  return { pump: new Pump(ring), writer: new RingWriter(ring) }
}

test('who is waited for gets all from the start', () => {
  const { pump, writer } = made()
  pump.hold()
  writer.guard(true, 0, 4096)
  pump.drain()
  const recorder = listener()
  pump.add(recorder)
  writer.guard(false, 0, 4096)
  pump.drain()
  expect(recorder.kinds).toEqual(['guard', 'guard'])
  pump.close()
})

test('so do those who were there before', () => {
  const { pump, writer } = made()
  const first = listener()
  pump.add(first)
  pump.hold()
  writer.guard(true, 0, 4096)
  pump.drain()
  expect(first.kinds).toEqual([])
  const recorder = listener()
  pump.add(recorder)
  pump.drain()
  expect([first.kinds, recorder.kinds]).toEqual([['guard'], ['guard']])
  pump.close()
})

test('who does not come after all holds up nobody, nor the end', () => {
  const { pump, writer } = made()
  const first = listener()
  pump.add(first)
  pump.hold()
  writer.guard(true, 0, 4096)
  pump.release()
  pump.drain()
  expect(first.kinds).toEqual(['guard'])
  pump.hold()
  writer.guard(false, 0, 4096)
  pump.close()
  expect(first.kinds).toEqual(['guard', 'guard'])
})
