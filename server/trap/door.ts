// SPDX-License-Identifier: Apache-2.0
import { ProtocolError } from '../../protocol/errors.ts'
import { type Hello, Id, type MessageFromQemu as Message } from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { type ByteStream, LinkClosed } from './byteStream.ts'
import { Link } from './link.ts'

/** A peer has so long for its hello, and for its answers until it is welcome, ms. */
const HANDSHAKE_MS = 5_000
/** Most peers that have not said hello: one more takes the place of the oldest. */
const MAX_PEERS = 8

/**
 * Peers that have not said hello. None of them is the machine yet, so none of them keeps the machine out, however many come
 * and say nothing.
 */
export class Door {
  readonly #peers = new Map<Link, NodeJS.Timeout>()
  readonly #admit: (link: Link, hello: Hello) => void
  readonly #turnedAway: (reason: Error) => void
  readonly #handshakeMs: number

  /**
   * @param admit gets a peer that said hello; what it throws closes the link
   * @param turnedAway hears why, of peers that broke the protocol or said nothing in time
   */
  constructor(
    admit: (link: Link, hello: Hello) => void,
    turnedAway: (reason: Error) => void,
    handshakeMs = HANDSHAKE_MS,
  ) {
    this.#admit = admit
    this.#turnedAway = turnedAway
    this.#handshakeMs = handshakeMs
  }

  /** Takes a connection of which nothing was read yet. */
  knock(stream: ByteStream): void {
    const [oldest] = this.#peers.size < MAX_PEERS ? [] : this.#peers.keys()
    oldest?.close(new LinkClosed('a peer that said nothing gave its place to another'))
    const ms = this.#handshakeMs
    const link = new Link(stream, {
      message: message => this.#message(link, message),
      notice: () => false,
      closed: reason => {
        this.#leave(link)
        if (reason instanceof ProtocolError) this.#turnedAway(reason)
      },
    })
    link.deadline = performance.now() + ms
    const tooLate = () => {
      const reason = new LinkClosed(`a peer did not say hello within ${ms} ms`)
      link.close(reason)
      this.#turnedAway(reason)
    }
    this.#peers.set(link, setTimeout(tooLate, ms))
  }

  /** Sends all away. */
  close(): void {
    for (const link of this.#peers.keys()) link.close(new LinkClosed('nobody is served here any more'))
  }

  #message(link: Link, message: Message): void {
    if (message.type !== Id.hello) throw outOfPlace(message)
    this.#leave(link)
    this.#admit(link, message)
  }

  #leave(link: Link): void {
    clearTimeout(this.#peers.get(link))
    this.#peers.delete(link)
  }
}

export function outOfPlace(message: Message): ProtocolError {
  return new ProtocolError(enums.error.state[0], `message ${message.type}, seq ${message.seq}: not allowed now`)
}
