// SPDX-License-Identifier: Apache-2.0
import type { Layout } from './layout.ts'
import type { RecordOf, TraceRecord } from './records.ts'
import { RingReader } from './ring.ts'

/** Takes the records of a run, in order, on the control thread. */
export interface Sink {
  /** False: not now. The ring then waits, and loses records when it is full. */
  readonly ready: boolean
  /** A record in the ring, at word `at`; valid during the call (RingReader.decode copies it). */
  fromRing(reader: RingReader, layout: Layout, at: number): void
  /** A record of the control thread. */
  record(record: TraceRecord): void
  /** Called after every round, also an empty one. */
  flush(): void
}

/** ms between two looks at the ring. */
const INTERVAL = 20

/** The ring's consumer: hands its records, and those of the control thread, to all sinks as one time line. */
export class Pump {
  /** ns since the ring was created. */
  readonly now: () => number
  readonly #reader: RingReader
  readonly #sinks = new Set<Sink>()
  readonly #timer: NodeJS.Timeout
  /** Records that `lost` records accounted for. */
  #accounted = 0
  /** Somebody is about to come who wants all from the start. */
  #held = false

  constructor(ring: SharedArrayBuffer) {
    this.#reader = new RingReader(ring)
    this.now = this.#reader.now
    this.#timer = setInterval(() => this.drain(), INTERVAL)
    this.#timer.unref()
  }

  /** Records lost since the ring was created. */
  get lost(): number {
    return this.#reader.lost
  }

  /** Nothing is taken out of the ring before the next sink is there: it has room for what a machine does until then. */
  hold(): void {
    this.#held = true
  }

  release(): void {
    this.#held = false
  }

  add(sink: Sink): void {
    this.#held = false
    this.#sinks.add(sink)
  }

  remove(sink: Sink): void {
    this.#sinks.delete(sink)
  }

  /** Hands out what is in the ring. */
  drain(): void {
    if (this.#held) return
    for (const sink of this.#sinks) if (!sink.ready) return this.#flush()
    this.#reader.drain((layout, at) => {
      if (layout.name === 'lost') {
        this.#accounted += (this.#reader.decode(layout, at) as RecordOf<'lost'>).count
      }
      for (const sink of this.#sinks) sink.fromRing(this.#reader, layout, at)
    })
    this.#flush()
  }

  /** A line of the guest's serial console. */
  console(text: string): void {
    this.#give({ kind: 'console', start: this.now(), text })
  }

  /** The machine's state changed. @param state a value of `machineState`. */
  machine(state: number): void {
    this.#give({ kind: 'machine', state, time: 0, start: this.now() })
  }

  /** Something that the control thread did or noticed. */
  control(what: string, details: Readonly<Record<string, unknown>> = {}): void {
    this.#give({ kind: 'control', start: this.now(), text: JSON.stringify({ what, ...details }) })
  }

  /** After the trap thread's end: hands out the rest, and says what was lost at the end. */
  close(): void {
    clearInterval(this.#timer)
    this.#held = false
    this.drain()
    const count = this.#reader.lost - this.#accounted
    if (count > 0) this.#give({ kind: 'lost', count })
  }

  #give(record: TraceRecord): void {
    this.drain()
    for (const sink of this.#sinks) sink.record(record)
  }

  #flush(): void {
    for (const sink of this.#sinks) sink.flush()
  }
}
