// SPDX-License-Identifier: Apache-2.0

/** An item of a feed; ids ascend. */
export interface Numbered {
  readonly id: number
}

/** A bounded history that clients read, each at its own pace. No state is kept per client. */
export interface Source<T extends Numbered> {
  /** Ids of the oldest item that is kept, and of the next one. */
  readonly oldest: number
  readonly next: number
  /** New items are sent every `pace` ticks of the subscriptions; default 1. */
  readonly pace?: number
  /** Called when a client subscribes, so that slow preparations can begin. */
  subscribed?(): void
  /**
   * Items from id `from` on, at most `max` that match, after looking at a bounded number of them.
   * @returns the items, and the id to go on with.
   */
  read(from: number, max: number, filter: unknown): { readonly items: readonly T[]; readonly next: number }
}

/** The last `capacity` items of each kind. */
export class Feed<T extends Numbered> implements Source<T> {
  readonly #capacity: number
  readonly #kind: (item: T) => string
  /** How many items there are of each kind. */
  readonly #counts = new Map<string, number>()
  /** Ids ascend; where a kind lost items there are gaps. */
  #items: T[] = []
  #next = 1

  /** @param kind of each kind as many items are kept as of a feed of that kind alone; default: there is one kind */
  constructor(capacity: number, kind: (item: T) => string = () => '') {
    this.#capacity = capacity
    this.#kind = kind
  }

  get next(): number {
    return this.#next
  }

  get oldest(): number {
    return this.#items[0]?.id ?? this.#next
  }

  push(item: Omit<T, 'id'>): T {
    const numbered = { id: this.#next++, ...item } as T
    this.#items.push(numbered)
    const kind = this.#kind(numbered)
    const count = (this.#counts.get(kind) ?? 0) + 1
    this.#counts.set(kind, count)
    // In bulk: removing from the front moves all other items.
    if (count > this.#capacity * 1.25) this.#forget(kind, count - this.#capacity)
    return numbered
  }

  /** The oldest `count` items of a kind. */
  #forget(kind: string, count: number): void {
    let left = count
    this.#items = this.#items.filter(item => left === 0 || this.#kind(item) !== kind || left-- === 0)
    this.#counts.set(kind, this.#capacity)
  }

  get last(): T | undefined {
    return this.#items.at(-1)
  }

  /** Nothing is filtered. */
  read(from: number, max: number, _filter?: unknown): { items: T[]; next: number } {
    const at = this.#at(from)
    const items = this.#items.slice(at, at + max)
    return { items, next: this.#items[at + max]?.id ?? this.#next }
  }

  /** Index of the first item with this id or a larger one. */
  #at(id: number): number {
    let low = 0
    for (let high = this.#items.length; low < high; ) {
      const middle = (low + high) >>> 1
      if ((this.#items[middle]?.id ?? 0) < id) low = middle + 1
      else high = middle
    }
    return low
  }
}
