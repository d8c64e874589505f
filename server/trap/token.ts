// SPDX-License-Identifier: Apache-2.0
/** A token that both ends have to know, and how they prove it: protocol/README.md, "A token". */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { ProtocolError } from '../../protocol/errors.ts'
import { enums, TOKEN_BYTES } from '../../protocol/messages.ts'

/** What the peer sent. */
interface Proof {
  readonly nonce: Uint8Array
  readonly mac: Uint8Array
}

/** The zero that ends them belongs to them: no text of one is the beginning of another. */
const LABELS = { qemu: 'smmu-cosim QEMU\0', server: 'smmu-cosim server\0' } as const

/** HMAC-SHA256 of one end over both nonces and the payload of hello. */
export function tokenMac(
  token: Uint8Array,
  from: keyof typeof LABELS,
  serverNonce: Uint8Array,
  qemuNonce: Uint8Array,
  hello: Uint8Array,
): Buffer {
  const mac = createHmac('sha256', token).update(LABELS[from])
  return mac.update(serverNonce).update(qemuNonce).update(hello).digest()
}

/** The question to one peer; of use once. */
export class Challenge {
  readonly nonce: Buffer = randomBytes(TOKEN_BYTES)
  readonly #token: Uint8Array
  readonly #hello: Uint8Array

  /** @param hello the payload, as it came; it is copied */
  constructor(token: Uint8Array, hello: Uint8Array) {
    this.#token = token
    this.#hello = Buffer.from(hello)
  }

  /**
   * @returns the proof that this end knows the token as well; undefined: the peer does not know it
   * @throws ProtocolError for a nonce or a mac of another length
   */
  check({ nonce, mac }: Proof): Buffer | undefined {
    for (const [name, { length }] of Object.entries({ nonce, mac })) {
      if (length === TOKEN_BYTES) continue
      throw new ProtocolError(enums.error.value[0], `proof.${name}: ${length} bytes, expected ${TOKEN_BYTES}`)
    }
    const wanted = tokenMac(this.#token, 'qemu', this.nonce, nonce, this.#hello)
    // Who sends our own nonce back chose nothing.
    if (!timingSafeEqual(wanted, mac) || this.nonce.equals(nonce)) return undefined
    return tokenMac(this.#token, 'server', this.nonce, nonce, this.#hello)
  }
}
