// Keeps the end of a growing answer in view, until the user scrolls up.

const NEAR = 32;

/** Follows the end of what scrolls. */
export class Follow {
  #scroller;
  #button;
  #top = 0;
  #following = true;

  /**
   * @param {HTMLElement} scroller - what scrolls.
   * @param {HTMLButtonElement} button - leads back to the end; shown while not following.
   */
  constructor(scroller, button) {
    this.#scroller = scroller;
    this.#button = button;
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.grown()).observe(scroller);
  }

  /** Goes to the end and follows it from now on. */
  toEnd() {
    this.#following = true;
    this.grown();
  }

  /** What is in it has changed. */
  grown() {
    if (this.#following) {
      this.#scroller.scrollTop = this.#scroller.scrollHeight;
      this.#top = this.#scroller.scrollTop;
    }
    this.#button.hidden = this.#following || this.#left() < NEAR;
  }

  #left() {
    return this.#scroller.scrollHeight - this.#scroller.clientHeight - this.#scroller.scrollTop;
  }

  #scrolled() {
    const top = this.#scroller.scrollTop;
    if (this.#left() < NEAR) this.#following = true;
    else if (top < this.#top) this.#following = false;
    this.#top = top;
    this.#button.hidden = this.#following;
  }
}
