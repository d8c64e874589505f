// SPDX-License-Identifier: Apache-2.0
import { ProtocolError } from '../../protocol/errors.ts'
import {
  encodeChallenge,
  encodeConfirm,
  type Hello,
  Id,
  type MessageFromQemu as Message,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import { type ByteStream, LinkClosed } from './byteStream.ts'
import { Link } from './link.ts'
import { refuse } from './refusal.ts'
import { Challenge } from './token.ts'

/** A peer has so long for its hello, for its proof, and for its answers until it is welcome, ms. */
const HANDSHAKE_MS = 5_000
/** Most peers that have not been let in: one more takes the place of the oldest. */
const MAX_PEERS = 8

/** A peer that was not let in yet. */
interface Waiting {
  readonly timer: NodeJS.Timeout
  /** It said hello, and has to prove that it knows the token: the request's number. */
  asked?: { readonly hello: Hello; readonly challenge: Challenge; readonly seq: number }
}

/**
 * Peers that have not said hello, or not proved that they know the token if there is one. None of them is the machine yet, so none of them keeps the machine out, however many come
 * and say nothing.
 */
export class Door {
  readonly #peers = new Map<Link, Waiting>()
  readonly #token: Uint8Array | undefined
  readonly #admit: (link: Link, hello: Hello) => void
  readonly #turnedAway: (reason: Error) => void
  readonly #handshakeMs: number

  /**
   * @param admit gets a peer that said hello; what it throws closes the link
   * @param turnedAway hears why, of peers that broke the protocol, said nothing in time, or do not know the token
   * @param token absent: whoever comes is let in
   */
  constructor(
    admit: (link: Link, hello: Hello) => void,
    turnedAway: (reason: Error) => void,
    handshakeMs = HANDSHAKE_MS,
    token?: Uint8Array,
  ) {
    this.#token = token
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
      const what = this.#peers.get(link)?.asked ? 'prove that it knows the token' : 'say hello'
      const reason = new LinkClosed(`a peer did not ${what} within ${ms} ms`)
      link.close(reason)
      this.#turnedAway(reason)
    }
    this.#peers.set(link, { timer: setTimeout(tooLate, ms) })
  }

  /** Sends all away. */
  close(): void {
    for (const link of this.#peers.keys()) link.close(new LinkClosed('nobody is served here any more'))
  }

  #message(link: Link, message: Message): void {
    const peer = this.#peers.get(link)
    if (peer?.asked !== undefined) return this.#proof(link, peer.asked, message)
    if (message.type !== Id.hello) throw outOfPlace(message)
    const known = (message.features & enums.feature.token[0]) !== 0
    if (this.#token === undefined) {
      if (known) this.#refuse(link, message, 'QEMU was given a token (token-secret), this server was not')
      this.#leave(link)
      return this.#admit(link, message)
    }
    if (!known) this.#refuse(link, message, 'this server wants a token, and QEMU was given none (token-secret)')
    const challenge = new Challenge(this.#token, link.payload)
    const seq = link.nextSeq()
    if (peer !== undefined) peer.asked = { hello: message, challenge, seq }
    encodeChallenge(link.out, seq, challenge.nonce)
    link.flush()
  }

  #proof(link: Link, { hello, challenge, seq }: NonNullable<Waiting['asked']>, message: Message): void {
    if (message.type !== Id.proof || message.seq !== seq) throw outOfPlace(message)
    const mac = challenge.check(message)
    if (mac === undefined) return this.#refuse(link, hello, 'it does not know the token of this server')
    this.#leave(link)
    encodeConfirm(link.out, link.nextSeq(), mac)
    link.flush()
    this.#admit(link, hello)
  }

  #refuse(link: Link, hello: Hello, text: string): never {
    this.#turnedAway(new LinkClosed(text))
    return refuse(link, hello, text)
  }

  #leave(link: Link): void {
    clearTimeout(this.#peers.get(link)?.timer)
    this.#peers.delete(link)
  }
}

export function outOfPlace(message: Message): ProtocolError {
  return new ProtocolError(enums.error.state[0], `message ${message.type}, seq ${message.seq}: not allowed now`)
}
